package main

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"balanza/services/eventlog"
	"balanza/services/processes"
	"balanza/services/store"
	"balanza/services/web"
)

const (
	restTime = 5 * time.Second // after which a started or loaded process is idle
	idleTime = 25 * time.Second
)

// idle measures a process without requests, with no page open and with one: the processor time of the program, and the calls
// of the store. A server's calls cannot be counted from outside, so this process runs the same site and counts its calls.
// All cases idle at the same time, so that the section takes half a minute and not two.
func idle(ctx context.Context, b *bench) error {
	var group errgroup.Group
	for _, pages := range []int{0, 1} {
		configs, err := b.stores(ctx, fmt.Sprintf("idle%d", pages))
		if err != nil {
			return err
		}
		for _, config := range configs {
			s, err := b.startBalanza(ctx, config.env(), "--m", "FORK")
			if err != nil {
				return err
			}
			defer s.stop()
			group.Go(func() error { return idleOn(ctx, s, config, pages) })
		}
	}
	return group.Wait()
}

// idleOn measures a server and a site of this process on one store, with that many pages open at each.
func idleOn(ctx context.Context, s *server, config storeConfig, pages int) error {
	st, err := config.open(ctx)
	if err != nil {
		return err
	}
	defer func() { _ = st.Close() }()
	counted := &countedStore{Store: st}
	site, stop, err := startSite(ctx, counted)
	if err != nil {
		return err
	}
	defer stop()
	if pages > 0 {
		cookie, err := s.signUp(ctx, "ana")
		if err != nil {
			return err
		}
		for _, each := range []*server{s, site} { // both find the session in the store that they share
			page, err := each.openPage(ctx, cookie)
			if err != nil {
				return err
			}
			defer page.conn.Close()
		}
	}
	time.Sleep(restTime)
	// Only what happens from here on is idle: the start and the sign-up also use the processor and the store.
	calls, start := counted.calls.Load(), time.Now()
	before, err := s.cpuSeconds(ctx)
	if err != nil {
		return err
	}
	time.Sleep(idleTime)
	after, err := s.cpuSeconds(ctx)
	if err != nil {
		return err
	}
	seconds := time.Since(start).Seconds()
	fmt.Printf("an idle process with %d page(s) open, on %s: %.1f %% of a processor, %.1f queries/s\n",
		pages, config.name, 100*(after-before)/seconds, float64(counted.calls.Load()-calls)/seconds)
	return nil
}

// startSite serves the site in this process, on a free port. stop returns when nothing of it runs any more.
func startSite(ctx context.Context, st store.Store) (s *server, stop func(), err error) {
	// The listener is open before Serve, so a page can connect at once.
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, nil, err
	}
	clock := store.NewClock(st, slog.New(slog.DiscardHandler))
	registry := processes.New(st, clock, store.Process{Server: "bench", Started: time.Now()})
	log := eventlog.New(st, clock, registry.Live)
	site, err := web.New(web.Config{
		Store: st, Clock: clock, Log: log, Processes: registry, Logger: slog.New(slog.DiscardHandler), Process: web.Process{Mode: "FORK", Started: time.Now()},
	})
	if err != nil {
		return nil, nil, err
	}
	ctx, cancel := context.WithCancel(ctx)
	var group errgroup.Group
	group.Go(func() error { return log.Run(ctx) })
	group.Go(func() error { return registry.Run(ctx, site.Source()) })
	group.Go(func() error { return site.Serve(ctx, ln) })
	return &server{name: "the site", url: "http://" + ln.Addr().String()}, func() { cancel(); _ = group.Wait() }, nil
}

// countedStore counts the calls that an idle site makes. Writes and sweeps are not among them.
type countedStore struct {
	store.Store
	calls atomic.Int64
}

// After is the poll of the log.
func (c *countedStore) After(ctx context.Context, n int64, limit int) ([]store.Entry, error) {
	c.calls.Add(1)
	return c.Store.After(ctx, n, limit)
}

// Last is called when the log starts, and after a failure.
func (c *countedStore) Last(ctx context.Context) (int64, error) {
	c.calls.Add(1)
	return c.Store.Last(ctx)
}

// Session is called when a page opens its websocket.
func (c *countedStore) Session(ctx context.Context, id string, now time.Time) (store.Session, error) {
	c.calls.Add(1)
	return c.Store.Session(ctx, id, now)
}

// LiveSessions is called every few seconds for the sessions of all websockets.
func (c *countedStore) LiveSessions(ctx context.Context, ids []string, now time.Time) ([]string, error) {
	c.calls.Add(1)
	return c.Store.LiveSessions(ctx, ids, now)
}

// User is called when a page opens its websocket.
func (c *countedStore) User(ctx context.Context, email string) (store.User, error) {
	c.calls.Add(1)
	return c.Store.User(ctx, email)
}

// TouchSession is called at times for a session in use.
func (c *countedStore) TouchSession(ctx context.Context, id string, expires time.Time) error {
	c.calls.Add(1)
	return c.Store.TouchSession(ctx, id, expires)
}

// Ping is called by readiness checks.
func (c *countedStore) Ping(ctx context.Context) error {
	c.calls.Add(1)
	return c.Store.Ping(ctx)
}
