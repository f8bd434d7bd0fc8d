package mongostore_test

import (
	"context"
	"fmt"
	"os/exec"
	"sync/atomic"
	"testing"
	"time"

	"balanza/services/store/storetest"
)

// newServerDatabase returns the URI of a new database and the name of the Docker container of its server, which the test may
// kill and pause.
func newServerDatabase(t *testing.T) (uri, container string) {
	t.Helper()
	uri = newDatabase(t, testEnv(t, "BALANZA_TEST_MONGODB_URI"))
	return uri, testEnv(t, "BALANZA_TEST_MONGODB_CONTAINER")
}

func docker(t *testing.T, args ...string) {
	t.Helper()
	if out, err := exec.Command("docker", args...).CombinedOutput(); err != nil {
		t.Fatalf("docker %v: %v: %s", args, err, out)
	}
}

func TestServerKilled(t *testing.T) {
	const writers, each, kills = 4, 100, 3
	uri, container := newServerDatabase(t)
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	var written atomic.Int64
	killNow := make(chan bool, kills) // receives a token after each quarter of all messages
	results := make(chan map[string]int64)
	for i := range writers {
		s := open(t, uri)
		go func() {
			acked, err := storetest.Write(ctx, s, fmt.Sprint("author", i), each, func(string, int64) {
				if n := written.Add(1); n%(writers*each/(kills+1)) == 0 && n < writers*each {
					killNow <- true
				}
			})
			if err != nil {
				t.Error(err)
			}
			results <- acked
		}()
	}
	for range kills {
		select {
		case <-killNow:
		case <-ctx.Done():
			t.Fatal("the writers did not finish within 2 minutes")
		}
		docker(t, "kill", "--signal", "KILL", container)
		docker(t, "start", container)
	}
	var acked []map[string]int64
	for range writers {
		acked = append(acked, <-results)
	}
	s := open(t, uri)
	if n := len(storetest.Verify(t, s, acked...)); n != writers*each {
		t.Errorf("%d messages of %d", n, writers*each)
	}
}

func TestServerPaused(t *testing.T) {
	uri, container := newServerDatabase(t)
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	s := open(t, uri)
	before, err := storetest.Write(ctx, s, "before", 10, nil)
	if err != nil {
		t.Fatal(err)
	}
	docker(t, "pause", container)
	resumed := false
	resume := func() {
		if !resumed {
			docker(t, "unpause", container)
		}
		resumed = true
	}
	defer resume()
	results := make(chan map[string]int64)
	go func() {
		acked, err := storetest.Write(ctx, s, "during the pause", 10, nil)
		if err != nil {
			t.Error(err)
		}
		results <- acked
	}()
	for range 2 {
		storetest.Outage(t, s)
	}
	resume()
	storetest.Verify(t, s, before, <-results)
}
