package edge

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

const (
	checkEvery   = 500 * time.Millisecond
	recheckEvery = 100 * time.Millisecond // of a server that is down: it is back in rotation soon after it is back
	checkTimeout = 2 * time.Second
	// Unclear failures in a row that take a server out: on a machine short of CPU, one late answer means nothing.
	maxUnclear = 3

	dialTimeout   = 2 * time.Second
	answerTimeout = 60 * time.Second // until an answer's headers: a draw may take long
	// Idle connections are given up long before the servers do so at 75 s, or requests would meet closed sockets.
	upstreamIdle = 30 * time.Second
	maxIdle      = 512 // connections for each server
)

// server is one server and its pool of connections.
type server struct {
	address string
	pooled  *http.Transport
	fresh   *http.Transport
	checks  http.Client
	log     *slog.Logger
	answers classes

	health  atomic.Pointer[health]
	setting sync.Mutex // of health
	unclear int        // failed checks in a row; only watch's goroutine uses it
}

type health struct {
	up    bool
	since time.Time
	cause string // why not up
}

func newTransport() *http.Transport {
	return &http.Transport{
		DialContext:           (&net.Dialer{Timeout: dialTimeout}).DialContext,
		DisableCompression:    true, // what the client accepts is between it and the server
		MaxIdleConnsPerHost:   maxIdle,
		IdleConnTimeout:       upstreamIdle,
		ResponseHeaderTimeout: answerTimeout,
	}
}

// newServer makes a server that counts as down until a check says otherwise. fresh is shared, it keeps nothing.
func newServer(address string, fresh *http.Transport, log *slog.Logger) *server {
	s := &server{
		address: address,
		pooled:  newTransport(),
		fresh:   fresh,
		checks: http.Client{
			// A fresh connection reaches a process that takes connections. A pooled one might lead to a worker
			// on its way out, which is not ready while its server is.
			Transport:     fresh,
			Timeout:       checkTimeout,
			CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		},
		log: log,
	}
	s.health.Store(&health{since: time.Now(), cause: "not asked yet"})
	return s
}

func (s *server) up() bool { return s.health.Load().up }

// set notes whether the server is up, and since when if that is new. cause says why it is down.
func (s *server) set(up bool, cause string) {
	s.setting.Lock()
	defer s.setting.Unlock()
	since := s.health.Load().since
	changed := s.up() != up
	if changed {
		since = time.Now()
	}
	s.health.Store(&health{up: up, since: since, cause: cause})
	switch {
	case changed && up:
		s.log.Info("server is up", "server", s.address)
	case changed:
		s.log.Warn("server is down", "server", s.address, "cause", cause)
		s.pooled.CloseIdleConnections()
	}
}

// checkAll asks every server once, all at the same time.
func (b *Balancer) checkAll(ctx context.Context) {
	var asked sync.WaitGroup
	for _, s := range b.servers() {
		asked.Go(func() { s.check(ctx) })
	}
	asked.Wait()
}

// watch checks the server again and again until ctx ends.
func (s *server) watch(ctx context.Context) {
	defer s.pooled.CloseIdleConnections()
	for {
		pause := recheckEvery
		if s.up() {
			pause = checkEvery
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(pause):
			s.check(ctx)
		}
	}
}

// check asks the server once whether it is ready. A refusal, by TCP or in words, counts at once; a check that ran out
// of time or broke off, as when the worker that it reached is killed, only after some in a row.
func (s *server) check(ctx context.Context) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+s.address+"/readyz", nil)
	if err != nil {
		s.set(false, err.Error())
		return
	}
	res, err := s.checks.Do(req)
	if ctx.Err() != nil {
		return
	}
	if err == nil {
		res.Body.Close()
		s.unclear = 0
		if res.StatusCode/100 == 2 {
			s.set(true, "")
		} else {
			s.set(false, fmt.Sprintf("/readyz answers %d", res.StatusCode))
		}
		return
	}
	s.unclear++
	if s.unclear >= maxUnclear || errors.Is(err, syscall.ECONNREFUSED) {
		s.set(false, err.Error())
	}
}
