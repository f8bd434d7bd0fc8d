package main

import (
	"context"
	"crypto/rand"
	"encoding/base64"
	"fmt"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/gorilla/websocket"
	"golang.org/x/sync/errgroup"

	"balanza/services/store"
)

const (
	socketCount  = 5000
	dialAtOnce   = 8
	dialTries    = 20
	socketRounds = 2
	socketProbes = 1000 // of each route in a round, with and without
)

// probedRoutes are one that asks no store and one that does.
var probedRoutes = []string{"/info", "/api/productos"}

// idleSockets has one worker hold 5,000 websockets, each of a session of its own, over which nothing is said. It compares the
// latency of other routes with that without, in turns, and takes the memory that the worker grew by in the first of them.
func idleSockets(ctx context.Context, b *bench) error {
	if err := allowFiles(socketCount + 1000); err != nil {
		return err
	}
	p := b.sqlite("sockets")
	s, err := b.startBalanza(ctx, p.env(), "--m", "CLUSTER", "-i", "1")
	if err != nil {
		return err
	}
	defer s.stop()
	sessions, err := s.sessions(ctx, p, socketCount)
	if err != nil {
		return err
	}
	pid, err := s.get(ctx, "/info")
	if err != nil {
		return err
	}
	without, with := make([][]time.Duration, len(probedRoutes)), make([][]time.Duration, len(probedRoutes))
	for round := range socketRounds {
		if err := probeRoutes(ctx, s, without); err != nil {
			return err
		}
		before, err := resident(ctx, pid)
		if err != nil {
			return err
		}
		start := time.Now()
		crowd, err := s.crowd(ctx, sessions)
		if err != nil {
			return err
		}
		connected := time.Since(start)
		time.Sleep(settleFor)
		after, err := resident(ctx, pid)
		if err != nil {
			return err
		}
		cpu, err := s.cpu(ctx)
		if err != nil {
			return err
		}
		start = time.Now()
		if err := probeRoutes(ctx, s, with); err != nil {
			return err
		}
		ended, err := s.cpu(ctx)
		if err != nil {
			return err
		}
		if round == 0 {
			fmt.Printf("%d idle websockets of as many sessions on one worker: %.1f KiB of resident memory each "+
				"(%.1f to %.1f MiB); opened in %.1f s; %.0f %% of a processor while %s are asked for\n",
				len(crowd), (after-before)/float64(len(crowd))/1024, before/(1<<20), after/(1<<20),
				connected.Seconds(), 100*(ended-cpu)/time.Since(start).Seconds(), strings.Join(probedRoutes, " and "))
		}
		if err := leave(crowd); err != nil {
			return err
		}
		time.Sleep(settleFor / 2)
	}
	for i, route := range probedRoutes {
		slices.Sort(without[i])
		slices.Sort(with[i])
		n := len(with[i])
		ratio := func(at int) string {
			return fmt.Sprintf("%v without, %v with: %.2f times", without[i][at].Round(time.Microsecond),
				with[i][at].Round(time.Microsecond), float64(with[i][at])/float64(without[i][at]))
		}
		fmt.Printf("%s beside %d idle websockets, %d probes each: median %s; p99 %s; target 1\n",
			route, socketCount, n, ratio(n/2), ratio(n*99/100))
	}
	return nil
}

// probeRoutes adds latencies of each route.
func probeRoutes(ctx context.Context, s *server, took [][]time.Duration) error {
	for i, route := range probedRoutes {
		more, err := probe(ctx, s, route, socketProbes)
		if err != nil {
			return err
		}
		took[i] = append(took[i], more...)
	}
	return nil
}

// sessions makes a user and so many sessions, in the store: logging in is slow on purpose. They are cookies.
func (s *server) sessions(ctx context.Context, p place, n int) ([]string, error) {
	cookie, err := s.signUp(ctx, "ana")
	if err != nil {
		return nil, err
	}
	name, _, _ := strings.Cut(cookie, "=")
	st, err := p.open(ctx)
	if err != nil {
		return nil, err
	}
	defer func() { _ = st.Close() }()
	cookies := make([]string, n)
	var group errgroup.Group
	group.SetLimit(dialAtOnce)
	for i := range cookies {
		var random [32]byte
		_, _ = rand.Read(random[:]) // never fails
		id := base64.RawURLEncoding.EncodeToString(random[:])
		cookies[i] = name + "=" + id
		group.Go(func() error {
			return st.CreateSession(ctx, store.Session{
				ID: id, Email: "ana@example.com", Expires: time.Now().Add(10 * time.Minute),
			})
		})
	}
	return cookies, group.Wait()
}

// member is a websocket that is only kept open.
type member struct {
	conn  *websocket.Conn
	ended chan error // of capacity 1: why it ended
}

// crowd opens a websocket for each cookie; like pages, they try again when the server is busy.
func (s *server) crowd(ctx context.Context, cookies []string) ([]member, error) {
	crowd := make([]member, len(cookies))
	var group errgroup.Group
	group.SetLimit(dialAtOnce)
	for i, cookie := range cookies {
		group.Go(func() error {
			conn, _, err := s.dial(ctx, cookie)
			for range dialTries {
				if err == nil {
					break
				}
				time.Sleep(time.Second)
				conn, _, err = s.dial(ctx, cookie)
			}
			if err != nil {
				return err
			}
			m := member{conn, make(chan error, 1)}
			crowd[i] = m
			go func() {
				for {
					if _, _, err := conn.NextReader(); err != nil { // answers pings too
						m.ended <- err
						return
					}
				}
			}()
			return nil
		})
	}
	return crowd, group.Wait()
}

// leave closes them all. It fails when one had been lost.
func leave(crowd []member) error {
	lost := 0
	var why error
	for _, m := range crowd {
		select {
		case err := <-m.ended:
			lost, why = lost+1, err
		default:
		}
	}
	var all sync.WaitGroup
	for _, m := range crowd {
		all.Go(func() { _ = m.conn.Close() })
	}
	all.Wait()
	if lost > 0 {
		return fmt.Errorf("%d of %d idle websockets were lost: %w", lost, len(crowd), why)
	}
	return nil
}

// allowFiles raises this process's limit of open files, which the servers that it starts inherit.
func allowFiles(n uint64) error {
	var limit syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &limit); err != nil {
		return err
	}
	if limit.Max < n {
		return fmt.Errorf("%d open files are needed, and %d allowed: ulimit -Hn", n, limit.Max)
	}
	limit.Cur = max(limit.Cur, n)
	return syscall.Setrlimit(syscall.RLIMIT_NOFILE, &limit)
}
