package e2e

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"time"
)

// testChat has a crowd talk on the fork server and the four replicas, through their own ports, while one of them is killed every
// second and the fork server is reloaded once. When all is said, the database is killed too, which loses nothing that was
// acknowledged.
func testChat(t *testing.T, s *stack) {
	sites := []string{"http://127.0.0.1:28080"}
	for port := 28082; port <= 28085; port++ {
		sites = append(sites, fmt.Sprintf("http://127.0.0.1:%d", port))
	}
	victims := append(s.containers(t, "replica"), s.containers(t, "fork")...)
	up := make([]sync.Mutex, len(victims)) // each is started again before it is killed again
	converse(t, sites, calm, func(ctx context.Context) {
		var starts sync.WaitGroup
		defer func() {
			starts.Wait()
			mongo := s.containers(t, "mongo")
			s.docker(t, append([]string{"kill"}, mongo...)...)
			s.docker(t, append([]string{"start"}, mongo...)...)
		}()
		starts.Go(func() {
			for ctx.Err() == nil { // a kill may come in between
				if _, err := s.try("exec", "--no-TTY", "fork", "balanza", "reload"); err == nil {
					return
				}
				time.Sleep(time.Second)
			}
			t.Error("the fork server was not reloaded")
		})
		tick := time.NewTicker(time.Second)
		defer tick.Stop()
		for i := 0; ; i++ {
			select {
			case <-ctx.Done():
				t.Logf("%d containers were killed", i)
				return
			case <-tick.C:
			}
			starts.Go(func() {
				up[i%len(victims)].Lock()
				defer up[i%len(victims)].Unlock()
				for _, order := range []string{"kill", "start"} {
					if out, err := s.command("docker", order, victims[i%len(victims)]).CombinedOutput(); err != nil {
						t.Errorf("docker %s: %v: %s", order, err, out)
					}
				}
			})
		}
	})
	s.waitHealthy(t)
}
