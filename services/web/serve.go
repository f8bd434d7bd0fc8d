package web

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net"
	"time"

	"github.com/fasthttp/websocket"

	"balanza/services/eventlog"
)

const (
	cancelGrace   = time.Second            // for handlers to answer after their work was cancelled
	connectGrace  = 200 * time.Millisecond // for handshakes that began before RejectNew
	sweepInterval = 10 * time.Minute       // mean time between two sweeps of one process
)

// Serve answers requests on ln until ctx ends, then drains and returns nil. It closes ln: only this process stops
// accepting, other processes may hold the same socket. It is called once. An error is the listener's.
//
// The drain: readiness fails and every answer has Connection: close; websockets are closed with 1012; after DrainDelay,
// or at once when the site is replaced, the listener is closed; idle connections may bring a last request until
// DrainIdle has passed; requests in flight may take DrainTimeout more, then their work is cancelled and their
// connections are closed.
func (s *Site) Serve(ctx context.Context, ln net.Listener) error {
	defer s.background.Wait()
	defer s.stop()
	s.background.Go(func() { _ = s.hub.Run(s.work) }) // its error is always nil
	s.background.Go(func() { s.watchSessions(s.work) })
	s.background.Go(func() { s.sweep(s.work) })
	s.background.Go(func() { s.sockets.run(s.work) })

	failed := make(chan error, 1)
	go func() { failed <- s.app.Listener(newClientListener(s, ln)) }()
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

// drain ends Serve in the order that Serve's comment gives. accepting delivers the error of the accept loop.
func (s *Site) drain(ln net.Listener, accepting <-chan error) {
	s.draining.Store(true)
	for _, c := range s.clients.close() {
		c.end(websocket.CloseServiceRestart, "service restart")
	}
	idle, cancel := context.WithTimeout(s.work, max(s.config.DrainIdle, s.config.DrainDelay))
	defer cancel()
	if s.config.Replaced == nil || !s.config.Replaced() {
		select {
		case <-s.work.Done():
		case <-time.After(s.config.DrainDelay):
		}
		// The last holder of a socket that closes it resets the connections that it has not accepted. With RejectNew their
		// queue runs empty before.
		if last, ok := ln.(interface{ RejectNew() error }); ok && last.RejectNew() == nil {
			select {
			case <-s.work.Done():
			case <-time.After(connectGrace):
			}
		}
	}
	_ = ln.Close()
	<-accepting // every accepted connection is in s.conns now
	s.conns.wait(idle)

	// Not earlier: fasthttp's Shutdown closes idle connections at once, and a request may be on its way on one of them.
	inFlight, cancel := context.WithTimeout(s.work, s.config.DrainTimeout)
	defer cancel()
	_ = s.app.Server().ShutdownWithContext(inFlight)

	s.stop()
	grace, cancel := context.WithTimeout(context.Background(), cancelGrace)
	defer cancel()
	s.conns.wait(grace) // cancelled handlers answer 503
	s.clients.wait(grace)
	for _, c := range s.clients.all() {
		_ = c.conn.Close()
	}
	for _, c := range s.conns.all() {
		_ = c.Close()
	}
}

// Websockets returns the number of open websockets.
func (s *Site) Websockets() int { return s.clients.count() }

// sweep deletes what has expired, and old entries of the log, every few minutes until ctx ends. All processes do so, at
// different times.
func (s *Site) sweep(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-time.After(sweepInterval/2 + rand.N(sweepInterval)):
		}
		if err := s.sweepOnce(ctx); err != nil {
			s.log.Warn("expired sessions and old entries not deleted", "error", err)
		}
	}
}

func (s *Site) sweepOnce(ctx context.Context) error {
	now, err := s.now(ctx)
	if err != nil {
		return err
	}
	if _, err := s.config.Store.Sweep(ctx, now); err != nil {
		return err
	}
	_, err = eventlog.Prune(ctx, s.config.Store, now, s.config.KeepMessages)
	return err
}
