package web

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"reflect"
	"strings"
	"sync"
	"testing"
)

// A connection ends after an answer when the process is ahead, but not after its first one, nor when the next request is
// there already. Health checks do not count.
func TestBalance(t *testing.T) {
	var mu sync.Mutex
	var counted []int
	p := serve(t, siteWithoutStore(t, Config{Answered: func(n int) bool {
		mu.Lock()
		defer mu.Unlock()
		counted = append(counted, n)
		return true
	}}), listen(t))
	const info, health = "/info?format=json", "/healthz"
	for _, c := range []struct {
		name    string
		sent    []string // requests, those of an element in one piece
		answers int
		counted []int
	}{
		{"one", []string{info}, 1, []int{0}},
		{"one after the other", []string{info, info}, 2, []int{0, 1}},
		{"in one piece", []string{info + " " + info + " " + info}, 3, []int{0, 1, 1}},
		{"health checks", []string{health, health}, 2, []int{-1, 0}},
	} {
		t.Run(c.name, func(t *testing.T) {
			counted = nil
			conn, err := net.Dial("tcp", strings.TrimPrefix(p.url, "http://"))
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			answers := bufio.NewReader(conn)
			got, closed := 0, false
			for _, piece := range c.sent {
				paths := strings.Fields(piece)
				for i, path := range paths {
					paths[i] = fmt.Sprintf("GET %s HTTP/1.1\r\nHost: localhost\r\n\r\n", path)
				}
				if _, err := io.WriteString(conn, strings.Join(paths, "")); err != nil {
					t.Fatal(err)
				}
				for range paths {
					answer, err := http.ReadResponse(answers, nil)
					if err != nil {
						t.Fatal(err)
					}
					_, _ = io.Copy(io.Discard, answer.Body)
					answer.Body.Close()
					got++
					closed = closed || answer.Close
				}
			}
			if pipelined := strings.Contains(c.sent[0], " "); got != c.answers || closed != (got > 1 && !pipelined) {
				t.Errorf("%d answers; closed: %v", got, closed)
			}
			if mu.Lock(); !reflect.DeepEqual(counted, c.counted) {
				t.Errorf("counted %d, not %d", counted, c.counted)
			}
			mu.Unlock()
		})
	}
}

// A draw counts until it ends, as one answer or as events.
func TestDrawsCount(t *testing.T) {
	var mu sync.Mutex
	started, ended := []int64(nil), 0
	p := serve(t, siteWithoutStore(t, Config{Drawing: func(n int64) func() {
		mu.Lock()
		defer mu.Unlock()
		started = append(started, n)
		return func() {
			mu.Lock()
			defer mu.Unlock()
			ended++
		}
	}}), listen(t))
	for _, accept := range []string{"application/json", mimeEvents} {
		r, _ := http.NewRequest(http.MethodGet, p.url+"/api/randoms?cant=1000000", nil)
		r.Header.Set("Accept", accept)
		send(t, http.DefaultClient, r)
	}
	eventually(t, "a draw still counts", func() bool {
		mu.Lock()
		defer mu.Unlock()
		return ended == 2
	})
	if !reflect.DeepEqual(started, []int64{1_000_000, 1_000_000}) {
		t.Errorf("draws of %d numbers", started)
	}
}
