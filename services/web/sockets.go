package web

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/fasthttp/websocket"
	"golang.org/x/sync/errgroup"
	"golang.org/x/time/rate"

	"balanza/services/store"
)

const (
	// recheck is how often the sessions of open websockets are looked up, so that one deleted in the database ends
	// them.
	recheck = 2 * time.Second
	// lookups is how many of them are under way at a time.
	lookups = 4
)

// sockets knows the open websockets of the process.
type sockets struct {
	mu     sync.Mutex
	open   map[*peer]struct{}
	closed bool
	all    sync.WaitGroup
}

// add fails when the site drains.
func (ss *sockets) add(p *peer) bool {
	ss.mu.Lock()
	defer ss.mu.Unlock()
	if ss.closed {
		return false
	}
	if ss.open == nil {
		ss.open = make(map[*peer]struct{})
	}
	ss.open[p] = struct{}{}
	ss.all.Add(1)
	return true
}

func (ss *sockets) remove(p *peer) {
	ss.mu.Lock()
	defer ss.mu.Unlock()
	delete(ss.open, p)
	ss.all.Done()
}

func (ss *sockets) count() int {
	ss.mu.Lock()
	defer ss.mu.Unlock()
	return len(ss.open)
}

// restart sends every page to another process.
func (ss *sockets) restart() {
	ss.mu.Lock()
	defer ss.mu.Unlock()
	ss.closed = true
	for p := range ss.open {
		p.end(websocket.CloseServiceRestart, "service restart")
	}
}

// wait returns when all have ended or when ctx does, and then cuts those off that are left.
func (ss *sockets) wait(ctx context.Context) {
	ended := make(chan struct{})
	go func() { ss.all.Wait(); close(ended) }()
	select {
	case <-ended:
		return
	case <-ctx.Done():
	}
	ss.mu.Lock()
	defer ss.mu.Unlock()
	for p := range ss.open {
		_ = p.conn.Close()
	}
}

// bySession groups the open websockets.
func (ss *sockets) bySession() map[string][]*peer {
	ss.mu.Lock()
	defer ss.mu.Unlock()
	groups := make(map[string][]*peer)
	for p := range ss.open {
		groups[p.session.ID] = append(groups[p.session.ID], p)
	}
	return groups
}

// watchSessions ends the websockets of sessions that are gone, until ctx ends.
func (s *Site) watchSessions(ctx context.Context) {
	tick := time.NewTicker(recheck)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		var group errgroup.Group
		group.SetLimit(lookups)
		sessions := s.sockets.bySession()
		// Over half the time there is, not all at once: thousands of look-ups would be in other requests' way.
		pace := rate.NewLimiter(rate.Limit(2*float64(len(sessions))/recheck.Seconds()), 4*lookups)
		for id, peers := range sessions {
			if pace.Wait(ctx) != nil {
				break
			}
			group.Go(func() error {
				_, err := s.config.Store.Session(ctx, id, time.Now())
				if errors.Is(err, store.ErrNotFound) {
					for _, p := range peers {
						p.end(websocket.ClosePolicyViolation, sessionEnded)
					}
				}
				return err // any other one says nothing about the session; the rest is asked in the next round
			})
		}
		_ = group.Wait()
	}
}
