package web

import (
	"context"
	"maps"
	"slices"
	"time"

	"github.com/fasthttp/websocket"
)

const (
	// recheckInterval is the time between two look-ups of the sessions of open websockets: a session that was deleted in
	// the database itself, without a log entry, ends its websockets too.
	recheckInterval = 2 * time.Second
	maxLookup       = 200 // sessions of one look-up
)

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
		open := make(map[string][]*client) // by session
		for _, c := range s.clients.all() {
			open[c.session.ID] = append(open[c.session.ID], c)
		}
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
