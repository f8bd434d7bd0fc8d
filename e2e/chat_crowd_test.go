package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"sync"
	"syscall"
	"testing"
	"time"
)

const (
	crowdPages = 32
	crowdSays  = 100 // messages of each page
	crowdTabs  = 4   // pages of one user
	// Between two messages of a page, about: the one is well under what the server allows, the other under what a small machine's
	// MongoDB takes while processes come and go.
	quick, calm = 120 * time.Millisecond, 350 * time.Millisecond
)

// converse has 32 pages on these sites say 100 messages each, at that pace, while disturb goes on, which ends when its ctx does. Then every
// page must show every message once, all in one order.
func converse(t *testing.T, sites []string, pace time.Duration, disturb func(ctx context.Context)) (pages []*page) {
	t.Helper()
	for i := range crowdPages / crowdTabs {
		u := newUser(t, sites[i%len(sites)], fmt.Sprintf("persona%d", i))
		for range crowdTabs {
			pages = append(pages, openPage(t, u, 0, sites...))
		}
	}
	pages[0].say("first") // from here on every page knows where it was when it comes back
	for _, p := range pages {
		p.awaitShown(t, 1)
	}

	ctx, end := context.WithCancel(t.Context())
	defer end()
	var trouble, talk sync.WaitGroup
	trouble.Go(func() { disturb(ctx) })
	for i, p := range pages {
		talk.Go(func() {
			for j := range crowdSays {
				p.say(fmt.Sprintf("page %d message %d", i, j))
				time.Sleep(pace/2 + rand.N(pace))
			}
		})
	}
	talk.Wait()
	end()
	trouble.Wait()

	for _, p := range pages {
		p.awaitShown(t, crowdPages*crowdSays+1)
	}
	late := openPage(t, pages[0].user, pages[0].order[0], sites...) // was away for all but the first
	late.awaitShown(t, crowdPages*crowdSays)
	late.order = append(pages[0].order[:1:1], late.order...)
	late.shown[late.order[0]] = pages[0].shown[late.order[0]]
	pages = append(pages, late)
	oneChat(t, pages, crowdPages*crowdSays+1)

	closes := map[int]int{}
	for _, p := range pages {
		for code, n := range p.closes {
			closes[code] += n
		}
	}
	t.Logf("%d connections were lost, by close code: %v", total(closes), closes)
	return pages
}

// oneChat fails unless all pages, which are to be at rest, show the same: that many messages in the order of their numbers,
// each text once, and each of a page's own under the number that it was acknowledged with.
func oneChat(t *testing.T, pages []*page, messages int) {
	t.Helper()
	for i, p := range pages {
		p.mu.Lock()
		defer p.mu.Unlock()
		if len(p.problems) > 0 {
			t.Errorf("page %d: %q", i, p.problems)
		}
		if !slices.IsSorted(p.order) {
			t.Errorf("page %d was told out of order: %v", i, p.order)
		}
		if len(p.order) != messages {
			t.Errorf("page %d shows %d messages, want %d", i, len(p.order), messages)
		}
		if !maps.Equal(p.shown, pages[0].shown) {
			t.Errorf("page %d shows other messages than page 0", i)
		}
		texts := map[string]bool{}
		for _, m := range p.shown {
			if texts[m.Text] {
				t.Errorf("page %d shows %q twice", i, m.Text)
			}
			texts[m.Text] = true
		}
		for text, n := range p.acked {
			if got := p.shown[n]; got.Text != text || got.Author != p.user.author.ID {
				t.Errorf("page %d: %q was acknowledged as %d, which is %q of %s", i, text, n, got.Text, got.Author)
			}
		}
	}
}

// toldOnce fails when a page was told of a message more than once. It would show that once, as it keeps messages by number, but it
// must not come to that where the log never steps back. A MongoDB's may, when it is killed before what was read is durable.
func toldOnce(t *testing.T, pages []*page) {
	t.Helper()
	for i, p := range pages {
		p.mu.Lock()
		defer p.mu.Unlock()
		if len(p.again) > 0 {
			t.Errorf("page %d was told twice of the messages %v", i, p.again)
		}
	}
}

func total(counts map[int]int) (sum int) {
	for _, n := range counts {
		sum += n
	}
	return sum
}

// workers are the processes of a running server that serve.
func (s *server) workers() (pids []int, err error) {
	out, err := s.balanza("ps", "--json").Output()
	if err != nil {
		return nil, fmt.Errorf("balanza ps: %w", err)
	}
	var servers []struct {
		Workers []struct {
			Pid    int
			Status string
		}
	}
	if err := json.Unmarshal(out, &servers); err != nil {
		return nil, fmt.Errorf("balanza ps: %w", err)
	}
	for _, server := range servers {
		for _, w := range server.Workers {
			if w.Status == "online" {
				pids = append(pids, w.Pid)
			}
		}
	}
	return pids, nil
}

// killWorkers kills a worker every second until ctx ends, and reloads the server once meanwhile.
func killWorkers(t *testing.T, s *server) func(ctx context.Context) {
	return func(ctx context.Context) {
		var reload sync.WaitGroup
		defer reload.Wait()
		kills := 0
		tick := time.NewTicker(time.Second)
		defer tick.Stop()
		for {
			select {
			case <-ctx.Done():
				t.Logf("%d workers were killed", kills)
				if kills < 4 {
					t.Error("too few to prove anything")
				}
				return
			case <-tick.C:
			}
			pids, err := s.workers()
			if err != nil {
				t.Error(err)
				return
			}
			if len(pids) > 0 && syscall.Kill(pids[rand.N(len(pids))], syscall.SIGKILL) == nil {
				kills++
			}
			if kills == 3 {
				reload.Go(func() {
					if out, err := s.balanza("reload").CombinedOutput(); err != nil {
						t.Errorf("reload: %v\n%s", err, out)
					}
				})
			}
		}
	}
}

func TestWorkersDieUnderACrowd(t *testing.T) {
	s := serve(t, t.TempDir(), "--m", "CLUSTER", "-i", "4")
	pages := converse(t, []string{s.url}, quick, killWorkers(t, s))
	toldOnce(t, pages)
}

func TestWorkersDieUnderACrowdOnMongoDB(t *testing.T) {
	m := runMongod(t)
	s := serve(t, m.home(), "--m", "CLUSTER", "-i", "4")
	converse(t, []string{s.url}, calm, func(ctx context.Context) {
		killWorkers(t, s)(ctx)
		// When all is said, as in testChat.
		m.kill()
		m.start()
	})
}
