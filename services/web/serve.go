package web

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net"
	"sync"
	"time"

	"github.com/valyala/fasthttp"
)

// lastBreath is how long handlers get to answer after their work was cancelled.
const lastBreath = time.Second

// sweepEvery is the mean time between two sweeps of one process.
const sweepEvery = 10 * time.Minute

// Serve answers requests on ln until ctx ends, then drains and returns nil. It closes ln, which other processes may
// hold too: only this process stops accepting. It is called once. It fails when the listener does.
//
// The drain: readiness fails and every answer carries Connection: close; websockets are closed with 1012; after
// DrainDelay, unless the site is replaced, the listener is closed; connections that are idle may bring a last request
// until DrainIdle has passed; what is in flight may take DrainTimeout more, then its work is cancelled and its
// connection closed.
func (s *Site) Serve(ctx context.Context, ln net.Listener) error {
	defer s.background.Wait()
	defer s.stop()
	s.background.Go(func() { _ = s.hub.Run(s.work) }) // fails with nothing
	s.background.Go(func() { s.watchSessions(s.work) })
	s.background.Go(func() { s.sweep(s.work) })

	failed := make(chan error, 1)
	go func() { failed <- s.app.Listener(ln) }()
	s.started.Store(true)
	select {
	case err := <-failed:
		return fmt.Errorf("listener of %s: %w", ln.Addr(), err)
	case <-ctx.Done():
	case <-s.work.Done():
	}
	s.drain(ln, failed)
	return nil
}

// Stop ends a drain, or Serve itself, at once: work in flight is cancelled and its connections are closed.
func (s *Site) Stop() { s.stop() }

func (s *Site) drain(ln net.Listener, accepting <-chan error) {
	s.draining.Store(true)
	s.sockets.restart()
	idle, cancel := context.WithTimeout(s.work, max(s.config.DrainIdle, s.config.DrainDelay))
	defer cancel()
	if s.config.Replaced == nil || !s.config.Replaced() {
		s.pause(s.config.DrainDelay)
		if last, ok := ln.(interface{ RejectNew() error }); ok && last.RejectNew() == nil {
			s.pause(lastCallers)
		}
	}
	_ = ln.Close()
	<-accepting // what was accepted at that moment is known now
	s.conns.wait(idle)

	// Only now: fasthttp's Shutdown closes idle connections at once, and a request may be on its way on one of them.
	patience, cancel := context.WithTimeout(s.work, s.config.DrainTimeout)
	defer cancel()
	_ = s.app.Server().ShutdownWithContext(patience)

	s.stop()
	breath, cancel := context.WithTimeout(context.Background(), lastBreath)
	defer cancel()
	s.conns.wait(breath) // what was cancelled says so to its client
	s.sockets.wait(breath)
	s.conns.close()
}

// lastCallers is how long those who were connecting when the listener was told to take no more have to get through.
const lastCallers = 200 * time.Millisecond

// pause waits, but not when everything has to end at once.
func (s *Site) pause(d time.Duration) {
	select {
	case <-time.After(d):
	case <-s.work.Done():
	}
}

// sweep has the store forget expired sessions and counters, every few minutes until ctx ends. All processes do so, at
// different times.
func (s *Site) sweep(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-time.After(sweepEvery/2 + rand.N(sweepEvery)):
		}
		if _, err := s.config.Store.Sweep(ctx, time.Now()); err != nil {
			s.log.Warn("expired sessions not swept", "error", err)
		}
	}
}

// conns knows the open connections that speak HTTP; websockets have left it.
type conns struct {
	mu   *sync.Mutex
	open map[net.Conn]struct{}
}

func newConns() conns { return conns{new(sync.Mutex), make(map[net.Conn]struct{})} }

// state is fasthttp's hook.
func (cs conns) state(c net.Conn, state fasthttp.ConnState) {
	switch state {
	case fasthttp.StateNew:
		cs.mu.Lock()
		cs.open[c] = struct{}{}
		cs.mu.Unlock()
	case fasthttp.StateClosed, fasthttp.StateHijacked:
		cs.mu.Lock()
		delete(cs.open, c)
		cs.mu.Unlock()
	}
}

func (cs conns) count() int {
	cs.mu.Lock()
	defer cs.mu.Unlock()
	return len(cs.open)
}

// wait returns when no connection is open or when ctx ends.
func (cs conns) wait(ctx context.Context) {
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for cs.count() > 0 {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

func (cs conns) close() {
	cs.mu.Lock()
	defer cs.mu.Unlock()
	for c := range cs.open {
		_ = c.Close()
	}
}
