package mongostore_test

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"sync/atomic"
	"testing"
	"time"

	"balanza/services/store/storetest"
)

// container is the name of the Docker container that the server runs in, which the test may kill and pause.
func container(t *testing.T) string {
	t.Helper()
	name := os.Getenv("BALANZA_TEST_MONGODB_CONTAINER")
	if name == "" {
		t.Skip("BALANZA_TEST_MONGODB_CONTAINER names no container that may be killed")
	}
	return name
}

func docker(t *testing.T, args ...string) {
	t.Helper()
	if out, err := exec.Command("docker", args...).CombinedOutput(); err != nil {
		t.Fatalf("docker %v: %v: %s", args, err, out)
	}
}

func TestServerKilled(t *testing.T) {
	const writers, each, kills = 4, 100, 3
	uri, name := newDatabase(t, server(t)), container(t)
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	var written atomic.Int64
	enough := make(chan bool, kills) // told at each quarter of what is to be written
	results := make(chan map[string]int64)
	for i := range writers {
		s := open(t, uri)
		go func() {
			acked, err := storetest.Write(ctx, s, fmt.Sprint("author", i), each, func(string, int64) {
				if n := written.Add(1); n%(writers*each/(kills+1)) == 0 && n < writers*each {
					enough <- true
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
		case <-enough:
		case <-ctx.Done():
			t.Fatal("the writers are stuck")
		}
		docker(t, "kill", "--signal", "KILL", name)
		docker(t, "start", name)
	}
	var acked []map[string]int64
	for range writers {
		acked = append(acked, <-results)
	}
	s := open(t, uri)
	storetest.Verify(t, s, acked...)
	if n, err := s.Last(ctx); err != nil || n != writers*each {
		t.Errorf("%d entries of %d, %v", n, writers*each, err)
	}
}

func TestServerPaused(t *testing.T) {
	uri, name := newDatabase(t, server(t)), container(t)
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	s := open(t, uri)
	before, err := storetest.Write(ctx, s, "before", 10, nil)
	if err != nil {
		t.Fatal(err)
	}
	docker(t, "pause", name)
	resumed := false
	resume := func() {
		if !resumed {
			docker(t, "unpause", name)
		}
		resumed = true
	}
	defer resume()
	results := make(chan map[string]int64)
	go func() {
		acked, err := storetest.Write(ctx, s, "meanwhile", 10, nil)
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
