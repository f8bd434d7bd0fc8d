package e2e

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"time"
)

// testChat runs a large conversation on the fork server and the four replicas, through their own ports. One of them is killed
// every second, and the fork server is reloaded once. After the last message the database is killed, too: it must keep every
// acknowledged message.
func testChat(t *testing.T, s *stack) {
	sites := []string{"http://127.0.0.1:28080"}
	for port := 28082; port <= 28085; port++ {
		sites = append(sites, fmt.Sprintf("http://127.0.0.1:%d", port))
	}
	victims := append(s.containers(t, "replica"), s.containers(t, "fork")...)
	restarting := make([]sync.Mutex, len(victims)) // each is started before it is killed again
	largeConversation(longInterval).run(t, sites, func(ctx context.Context) {
		var commands sync.WaitGroup
		defer func() {
			commands.Wait()
			mongo := s.containers(t, "mongo")
			s.docker(t, append([]string{"kill"}, mongo...)...)
			s.docker(t, append([]string{"start"}, mongo...)...)
		}()
		commands.Go(func() {
			for ctx.Err() == nil { // a kill makes it fail
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
				t.Logf("%d containers killed", i)
				return
			case <-tick.C:
			}
			commands.Go(func() {
				restarting[i%len(victims)].Lock()
				defer restarting[i%len(victims)].Unlock()
				for _, command := range []string{"kill", "start"} {
					if out, err := s.command("docker", command, victims[i%len(victims)]).CombinedOutput(); err != nil {
						t.Errorf("docker %s: %v: %s", command, err, out)
					}
				}
			})
		}
	})
	s.waitHealthy(t)
}
