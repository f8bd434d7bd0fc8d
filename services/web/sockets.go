package web

import (
	"context"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/fasthttp/websocket"
)

const (
	// recheck is how often the sessions of open websockets are looked up, so that one deleted in the database ends
	// them.
	recheck = 2 * time.Second
	// perLookUp is how many are looked up at a time.
	perLookUp = 200
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
		open := s.sockets.bySession()
		parts := slices.Collect(slices.Chunk(slices.Collect(maps.Keys(open)), perLookUp))
		for _, ids := range parts {
			s.endGone(ctx, ids, open)
			s.pause(recheck / 2 / time.Duration(len(parts))) // thousands at once would be in other requests' way
		}
	}
}

// endGone ends the websockets of those of the sessions that are gone.
func (s *Site) endGone(ctx context.Context, ids []string, open map[string][]*peer) {
	live, err := s.config.Store.LiveSessions(ctx, ids, time.Now())
	if err != nil {
		return // it says nothing about them; the next round asks again
	}
	there := make(map[string]bool, len(live))
	for _, id := range live {
		there[id] = true
	}
	for _, id := range ids {
		if there[id] {
			continue
		}
		for _, p := range open[id] {
			p.end(websocket.ClosePolicyViolation, sessionEnded)
		}
	}
}
