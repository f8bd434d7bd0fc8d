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
	// recheckInterval is the time between two look-ups of the sessions of open websockets: a session that was deleted in
	// the database itself, without a log entry, ends its websockets too.
	recheckInterval = 2 * time.Second
	maxLookup       = 200 // sessions of one look-up
)

// clients are the open websockets of the process.
type clients struct {
	mu     sync.Mutex
	open   map[*client]struct{}
	closed bool // no more are accepted
	all    sync.WaitGroup
}

// add returns false when the site drains.
func (cs *clients) add(c *client) bool {
	cs.mu.Lock()
	defer cs.mu.Unlock()
	if cs.closed {
		return false
	}
	if cs.open == nil {
		cs.open = make(map[*client]struct{})
	}
	cs.open[c] = struct{}{}
	cs.all.Add(1)
	return true
}

func (cs *clients) remove(c *client) {
	cs.mu.Lock()
	defer cs.mu.Unlock()
	delete(cs.open, c)
	cs.all.Done()
}

func (cs *clients) count() int {
	cs.mu.Lock()
	defer cs.mu.Unlock()
	return len(cs.open)
}

// restart closes all websockets with 1012, at which the pages connect to another process, and accepts no more.
func (cs *clients) restart() {
	cs.mu.Lock()
	defer cs.mu.Unlock()
	cs.closed = true
	for c := range cs.open {
		c.end(websocket.CloseServiceRestart, "service restart")
	}
}

// wait returns when all have ended. When ctx ends first, it cuts off those that are left.
func (cs *clients) wait(ctx context.Context) {
	ended := make(chan struct{})
	go func() { cs.all.Wait(); close(ended) }()
	select {
	case <-ended:
		return
	case <-ctx.Done():
	}
	cs.mu.Lock()
	defer cs.mu.Unlock()
	for c := range cs.open {
		_ = c.conn.Close()
	}
}

// bySession groups the open websockets by session id.
func (cs *clients) bySession() map[string][]*client {
	cs.mu.Lock()
	defer cs.mu.Unlock()
	groups := make(map[string][]*client)
	for c := range cs.open {
		groups[c.session.ID] = append(groups[c.session.ID], c)
	}
	return groups
}

// watchSessions ends the websockets of sessions that have ended, until ctx ends.
func (s *Site) watchSessions(ctx context.Context) {
	tick := time.NewTicker(recheckInterval)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		open := s.clients.bySession()
		chunks := slices.Collect(slices.Chunk(slices.Collect(maps.Keys(open)), maxLookup))
		for _, ids := range chunks {
			s.endExpired(ctx, ids, open)
			s.wait(recheckInterval / 2 / time.Duration(len(chunks))) // thousands at once would delay other requests
		}
	}
}

// endExpired ends the websockets of those of the sessions that have ended.
func (s *Site) endExpired(ctx context.Context, ids []string, open map[string][]*client) {
	live, err := s.config.Store.LiveSessions(ctx, ids, time.Now())
	if err != nil {
		return // nothing is known about them; they are looked up again soon
	}
	for _, id := range ids {
		if slices.Contains(live, id) {
			continue
		}
		for _, c := range open[id] {
			c.end(websocket.ClosePolicyViolation, sessionEnded)
		}
	}
}
