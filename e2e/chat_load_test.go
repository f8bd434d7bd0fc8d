package e2e

import (
	"context"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"sync"
	"syscall"
	"testing"
	"time"
)

// The average time between two messages of a page. With the short one a page stays well below the server's limit on
// frames, with the long one below what MongoDB stores on a small machine while processes restart.
const (
	shortInterval = 120 * time.Millisecond
	longInterval  = 350 * time.Millisecond
)

// conversation is a number of pages that all send messages at the same time.
type conversation struct {
	users, pagesPerUser, messagesPerPage int
	interval                             time.Duration // between two messages of a page
}

// largeConversation sends 3,200 messages.
func largeConversation(interval time.Duration) conversation {
	return conversation{users: 8, pagesPerUser: 4, messagesPerPage: 100, interval: interval}
}

// run runs the conversation on these sites while disrupt runs, whose context ends with the last message. Then every page
// must show every message once, all in the same order.
func (c conversation) run(t *testing.T, sites []string, disrupt func(ctx context.Context)) (pages []*page) {
	t.Helper()
	for i := range c.users {
		u := newUser(t, sites[i%len(sites)], fmt.Sprintf("persona%d", i))
		for range c.pagesPerUser {
			pages = append(pages, openPage(t, u, 0, sites...))
		}
	}
	sent := c.messagesPerPage * len(pages)
	pages[0].send("first") // with an entry received, a page that reconnects asks for what follows it
	for _, p := range pages {
		p.awaitShown(t, 1)
	}

	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var disruption, senders sync.WaitGroup
	disruption.Go(func() { disrupt(ctx) })
	for i, p := range pages {
		senders.Go(func() {
			for j := range c.messagesPerPage {
				p.send(fmt.Sprintf("page %d message %d", i, j))
				time.Sleep(c.interval/2 + rand.N(c.interval))
			}
		})
	}
	senders.Wait()
	cancel()
	disruption.Wait()

	for _, p := range pages {
		p.awaitShown(t, sent+1)
	}
	// A page that got only the first message gets all others. A MongoDB that was killed may have forgotten an entry that
	// it had not acknowledged and given its number to another one: the pages must have got that one, too.
	late := openPage(t, pages[0].user, pages[0].order[0], sites...)
	late.awaitShown(t, sent)
	late.order = append(pages[0].order[:1:1], late.order...)
	late.shown[late.order[0]] = pages[0].shown[late.order[0]]
	pages = append(pages, late)
	checkPages(t, pages, sent+1)

	closes, connections := map[int]int{}, 0
	for _, p := range pages {
		for code, n := range p.closes {
			closes[code] += n
			connections += n
		}
	}
	t.Logf("%d connections ended; by close code: %v", connections, closes)
	return pages
}

// checkPages fails the test unless all pages show the same number of messages, ordered by number, each text once, and each
// of a page's own under the number of its acknowledgement. The pages must not receive messages any more.
func checkPages(t *testing.T, pages []*page, messages int) {
	t.Helper()
	for i, p := range pages {
		p.mu.Lock()
		defer p.mu.Unlock()
		if len(p.problems) > 0 {
			t.Errorf("page %d: %q", i, p.problems)
		}
		if !slices.IsSorted(p.order) {
			t.Errorf("page %d received messages out of order: %v", i, p.order)
		}
		if len(p.order) != messages {
			t.Errorf("page %d shows %d messages, want %d", i, len(p.order), messages)
		}
		if !maps.Equal(p.shown, pages[0].shown) {
			t.Errorf("page %d does not show the messages of page 0", i)
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

// checkNoRepeats fails the test when a page received a message more than once. The page shows it once all the same, by its
// number, but a log that keeps all its entries must not cause it. A MongoDB that is killed may lose its last entries.
func checkNoRepeats(t *testing.T, pages []*page) {
	t.Helper()
	for i, p := range pages {
		p.mu.Lock()
		defer p.mu.Unlock()
		if len(p.repeated) > 0 {
			t.Errorf("page %d received the messages %v more than once", i, p.repeated)
		}
	}
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
				t.Logf("%d workers killed", kills)
				if kills < 4 {
					t.Error("fewer than 4 workers were killed")
				}
				return
			case <-tick.C:
			}
			servers, err := s.list()
			if err != nil {
				t.Error(err)
				return
			}
			var pids []int
			for _, l := range servers {
				for _, w := range l.Workers {
					if w.Status == "online" {
						pids = append(pids, w.Pid)
					}
				}
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

func TestWorkersKilledUnderChatLoad(t *testing.T) {
	s := serve(t, homeWith(t, chatLimits), "--m", "CLUSTER", "-i", "4")
	checkNoRepeats(t, largeConversation(shortInterval).run(t, []string{s.url}, killWorkers(t, s)))
}

func TestWorkersKilledUnderChatLoadOnMongoDB(t *testing.T) {
	m := runMongod(t)
	s := serve(t, m.home(), "--m", "CLUSTER", "-i", "4")
	largeConversation(longInterval).run(t, []string{s.url}, func(ctx context.Context) {
		killWorkers(t, s)(ctx)
		m.kill() // after the last message, as in testChat
		m.start()
	})
}
