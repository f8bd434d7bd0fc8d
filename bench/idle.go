package main

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"balanza/services/store"
	"balanza/services/web"
)

const (
	settleFor = 5 * time.Second // after a start, until a process is at rest
	idleFor   = 25 * time.Second
)

// idle measures what a process costs that nobody asks anything, with no page open and with one: the program's processor
// time, and the calls that the site makes to its store, counted in this process. All that are measured idle together.
func idle(ctx context.Context, b *bench) error {
	var group errgroup.Group
	for _, pages := range []int{0, 1} {
		places, err := b.places(ctx, fmt.Sprintf("idle%d", pages))
		if err != nil {
			return err
		}
		for _, p := range places {
			s, err := b.startBalanza(ctx, p.env(), "--m", "FORK")
			if err != nil {
				return err
			}
			defer s.stop()
			group.Go(func() error { return idleOn(ctx, s, p, pages) })
		}
	}
	return group.Wait()
}

func idleOn(ctx context.Context, s *server, p place, pages int) error {
	st, err := p.open(ctx)
	if err != nil {
		return err
	}
	defer func() { _ = st.Close() }()
	counted := &countedStore{Store: st}
	site, end, err := siteOn(ctx, counted)
	if err != nil {
		return err
	}
	defer end()
	if pages > 0 {
		cookie, err := s.signUp(ctx, "ana")
		if err != nil {
			return err
		}
		for _, each := range []*server{s, site} { // one session on one store
			page, err := each.openPage(ctx, cookie)
			if err != nil {
				return err
			}
			defer page.conn.Close()
		}
	}
	time.Sleep(settleFor)
	calls, start := counted.calls.Load(), time.Now()
	before, err := s.cpu(ctx)
	if err != nil {
		return err
	}
	time.Sleep(idleFor)
	after, err := s.cpu(ctx)
	if err != nil {
		return err
	}
	took := time.Since(start).Seconds()
	fmt.Printf("an idle process with %d page(s) open, on %s: %.1f %% of a processor, %.1f queries/s\n",
		pages, p.store, 100*(after-before)/took, float64(counted.calls.Load()-calls)/took)
	return nil
}

// siteOn serves a site of the program's own code in this process.
func siteOn(ctx context.Context, st store.Store) (s *server, end func(), err error) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, nil, err
	}
	log := store.NewLog(st)
	site, err := web.New(web.Config{
		Store: st, Log: log, Logger: slog.New(slog.DiscardHandler), Process: web.Process{Mode: "FORK", Started: time.Now()},
	})
	if err != nil {
		return nil, nil, err
	}
	ctx, cancel := context.WithCancel(ctx)
	var group errgroup.Group
	group.Go(func() error { return log.Run(ctx) })
	group.Go(func() error { return site.Serve(ctx, ln) })
	return &server{name: "the site", url: "http://" + ln.Addr().String()}, func() { cancel(); _ = group.Wait() }, nil
}

// countedStore counts what a site asks of its store at rest. (Writes and sweeps are not among that.)
type countedStore struct {
	store.Store
	calls atomic.Int64
}

func (c *countedStore) After(ctx context.Context, n int64, limit int) ([]store.Entry, error) {
	c.calls.Add(1)
	return c.Store.After(ctx, n, limit)
}

func (c *countedStore) Last(ctx context.Context) (int64, error) {
	c.calls.Add(1)
	return c.Store.Last(ctx)
}

func (c *countedStore) Session(ctx context.Context, id string, now time.Time) (store.Session, error) {
	c.calls.Add(1)
	return c.Store.Session(ctx, id, now)
}

func (c *countedStore) LiveSessions(ctx context.Context, ids []string, now time.Time) ([]string, error) {
	c.calls.Add(1)
	return c.Store.LiveSessions(ctx, ids, now)
}

func (c *countedStore) User(ctx context.Context, email string) (store.User, error) {
	c.calls.Add(1)
	return c.Store.User(ctx, email)
}

func (c *countedStore) TouchSession(ctx context.Context, id string, expires time.Time) error {
	c.calls.Add(1)
	return c.Store.TouchSession(ctx, id, expires)
}

func (c *countedStore) Ping(ctx context.Context) error {
	c.calls.Add(1)
	return c.Store.Ping(ctx)
}
