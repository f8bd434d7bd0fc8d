package store

import (
	"context"
	"log/slog"
	"sync"
	"time"
)

const (
	clockInterval = time.Minute // between two questions for the server's time
	warnSkew      = time.Minute // a difference between the clocks of which operators should know
)

// Clock tells the time of a store's server. Processes on several machines judge by it whether a session or a record has
// expired, so that a machine whose own clock is wrong neither logs users out nor deletes what others use.
type Clock struct {
	store Store
	log   *slog.Logger

	mu     sync.Mutex
	server time.Time // the server's time at the last question
	asked  time.Time // this machine's time at that moment; its monotonic reading measures what has passed since
}

// NewClock returns the clock of a store. A skew of this machine of more than a minute is logged.
func NewClock(s Store, log *slog.Logger) *Clock { return &Clock{store: s, log: log} }

// Now returns the server's time, UTC, as good as half the duration of a call. It asks the server once a minute. While the
// server does not answer, Now goes on from the last answer; without any it fails with ErrUnavailable.
func (c *Clock) Now(ctx context.Context) (time.Time, error) {
	c.mu.Lock()
	server, asked := c.server, c.asked
	fresh := time.Since(asked) < clockInterval
	if !fresh && !asked.IsZero() { // other callers go on from the old answer meanwhile
		c.server, c.asked = server.Add(time.Since(asked)), time.Now()
	}
	c.mu.Unlock()
	if fresh {
		return server.Add(time.Since(asked)), nil
	}
	began := time.Now()
	now, err := c.store.Now(ctx)
	switch {
	case err == nil:
	case asked.IsZero():
		return time.Time{}, err
	default:
		return server.Add(time.Since(asked)), nil
	}
	ended := time.Now()
	now = now.Add(ended.Sub(began) / 2).UTC()
	skew := ended.Sub(now)
	if known := !asked.IsZero() && (asked.Sub(server)-skew).Abs() < warnSkew; skew.Abs() > warnSkew && !known {
		c.log.Warn("this machine's clock differs from the database's; sessions and limits go by the database's",
			"ahead", skew.Round(time.Second))
	}
	c.mu.Lock()
	c.server, c.asked = now, ended
	c.mu.Unlock()
	return now, nil
}
