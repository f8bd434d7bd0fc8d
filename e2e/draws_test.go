package e2e

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"sync"
	"testing"
	"time"

	"balanza/e2e/proctree"
)

// processorTime is what the processes of a server have used.
func (s *server) processorTime() (used time.Duration) {
	s.t.Helper()
	for _, w := range s.onlyServer().Workers {
		used += proctree.UserTime(w.Pid)
	}
	return used
}

// All workers together draw at most 16 requests of one address at a time, and a draw ends with its client: those that are
// abandoned delay neither others nor a restart.
func TestAbandonedDraws(t *testing.T) {
	eachMode(t, func(t *testing.T, args ...string) {
		s := serve(t, t.TempDir(), args...)
		statuses := map[int]int{}
		var mu sync.Mutex
		var clients sync.WaitGroup
		for range 40 {
			clients.Go(func() {
				response, err := noKeepAlive.Get(s.url + "/api/randoms?cant=200000000")
				if err != nil {
					t.Error(err)
					return
				}
				response.Body.Close()
				mu.Lock()
				defer mu.Unlock()
				statuses[response.StatusCode]++
			})
		}
		clients.Wait()
		if statuses[http.StatusOK] != 16 || statuses[http.StatusTooManyRequests] != 24 {
			t.Errorf("40 at once: %v", statuses)
		}

		ended := make(chan bool)
		clients.Go(func() { // the victim
			for {
				select {
				case <-ended:
					return
				default:
				}
				response, err := noKeepAlive.Get(s.url + "/login")
				if err != nil {
					t.Error(err)
					return
				}
				response.Body.Close()
				if response.StatusCode != http.StatusOK {
					t.Errorf("the victim got %s", response.Status)
				}
				time.Sleep(5 * time.Millisecond)
			}
		})
		for range 300 {
			conn, err := net.Dial("tcp", s.address())
			if err != nil {
				t.Fatal(err)
			}
			fmt.Fprint(conn, "GET /api/randoms?cant=1000000000 HTTP/1.1\r\nHost: localhost\r\n\r\n")
			time.Sleep(3 * time.Millisecond)
			conn.Close()
		}
		time.Sleep(time.Second)
		close(ended)
		clients.Wait()
		before := s.processorTime()
		time.Sleep(time.Second)
		if used := s.processorTime() - before; used > 300*time.Millisecond {
			t.Errorf("%v of processor time in the second after all clients have left", used)
		}
		began := time.Now()
		s.mustRun("restart", "site")
		if took := time.Since(began); took > 8*time.Second {
			t.Errorf("the restart took %v", took)
		}
		response, err := noKeepAlive.Get(s.url + "/api/randoms?cant=2000000")
		if err != nil {
			t.Fatal(err)
		}
		defer response.Body.Close()
		if _, err := io.Copy(io.Discard, response.Body); err != nil || response.StatusCode != http.StatusOK {
			t.Errorf("after the restart: %s %v", response.Status, err)
		}
	})
}
