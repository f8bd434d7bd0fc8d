package main

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/gorilla/websocket"
	"golang.org/x/sync/errgroup"

	"balanza/services/store"
)

const (
	socketCount   = 5000
	parallelDials = 8
	dialRetries   = 20 // a second apart
	socketRounds  = 2
	socketProbes  = 1000 // of each route in a round, with and without the websockets
)

// probedRoutes are a route that does not use the store and one that does.
var probedRoutes = []string{"/info", "/api/productos"}

// idleSockets opens 5,000 websockets of as many sessions at one worker and sends nothing over them. It measures by how much
// the private memory of the worker grows in the first round, and compares the latency of other routes with the latency
// without the websockets. Later rounds tell nothing about memory: the worker reuses what it has.
func idleSockets(ctx context.Context, b *bench) error {
	// Each websocket is a file descriptor here and one in the worker.
	if err := raiseFileLimit(socketCount + 1000); err != nil {
		return err
	}
	config := b.sqlite("sockets")
	s, err := b.startBalanza(ctx, config.env(), "--m", "CLUSTER", "-i", "1")
	if err != nil {
		return err
	}
	defer s.stop()
	// A session of its own for each, since the server checks sessions: websockets of one session would cost less.
	cookies, err := s.createSessions(ctx, config, socketCount)
	if err != nil {
		return err
	}
	pid, err := s.get(ctx, "/info") // of the only worker
	if err != nil {
		return err
	}
	without, with := make([][]time.Duration, len(probedRoutes)), make([][]time.Duration, len(probedRoutes))
	for round := range socketRounds {
		if err := probeRoutes(ctx, s, without); err != nil {
			return err
		}
		// After the probes, so that the memory of the first requests is not counted.
		before, err := privateMemory(ctx, pid)
		if err != nil {
			return err
		}
		start := time.Now()
		sockets, err := s.openSockets(ctx, cookies)
		if err != nil {
			return err
		}
		connected := time.Since(start)
		time.Sleep(restTime) // the garbage collector returns the memory of the handshakes
		after, err := privateMemory(ctx, pid)
		if err != nil {
			return err
		}
		cpuBefore, err := s.cpuSeconds(ctx)
		if err != nil {
			return err
		}
		start = time.Now()
		if err := probeRoutes(ctx, s, with); err != nil {
			return err
		}
		cpuAfter, err := s.cpuSeconds(ctx)
		if err != nil {
			return err
		}
		if round == 0 {
			fmt.Printf("%d idle websockets of as many sessions on one worker: %.1f KiB of private memory each "+
				"(%.1f to %.1f MiB); opened in %.1f s; %.0f %% of a processor while %s are requested\n",
				len(sockets), (after-before)/float64(len(sockets))/1024, before/(1<<20), after/(1<<20),
				connected.Seconds(), 100*(cpuAfter-cpuBefore)/time.Since(start).Seconds(), strings.Join(probedRoutes, " and "))
		}
		if err := closeSockets(sockets); err != nil {
			return err
		}
		time.Sleep(restTime / 2) // the worker notices the closed connections
	}
	for i, route := range probedRoutes {
		fmt.Printf("%s beside %d idle websockets, %s; target of p99 at most 1\n", route, socketCount,
			compareLatencies(without[i], with[i]))
	}
	return nil
}

// probeRoutes adds new latencies to those of each route.
func probeRoutes(ctx context.Context, s *server, latencies [][]time.Duration) error {
	for i, route := range probedRoutes {
		more, err := measureLatency(ctx, s, route, socketProbes)
		if err != nil {
			return err
		}
		latencies[i] = append(latencies[i], more...)
	}
	return nil
}

// createSessions registers a user, writes n sessions into the store and returns their cookies. It does not log in: a log-in
// hashes the password, which is slow by design, and their number is limited.
func (s *server) createSessions(ctx context.Context, config storeConfig, n int) ([]string, error) {
	cookie, err := s.signUp(ctx, "ana")
	if err != nil {
		return nil, err
	}
	name, _, _ := strings.Cut(cookie, "=")
	st, err := config.open(ctx)
	if err != nil {
		return nil, err
	}
	defer func() { _ = st.Close() }()
	user, err := st.User(ctx, "ana@example.com")
	if err != nil {
		return nil, err
	}
	cookies := make([]string, n)
	var group errgroup.Group
	group.SetLimit(parallelDials)
	for i := range cookies {
		token := store.NewToken()
		cookies[i] = name + "=" + token
		group.Go(func() error {
			return st.CreateSession(ctx, store.Session{
				ID: store.HashToken(token), Email: user.Email, Generation: user.Generation,
				Created: time.Now(), Expires: time.Now().Add(10 * time.Minute),
			})
		})
	}
	return cookies, group.Wait()
}

// idleSocket is a websocket that is only kept open.
type idleSocket struct {
	conn  *websocket.Conn
	ended chan error // capacity 1: the error that ended the connection
}

// openSockets opens a websocket for each cookie. Like pages they try again when the server limits them.
func (s *server) openSockets(ctx context.Context, cookies []string) ([]idleSocket, error) {
	sockets := make([]idleSocket, len(cookies))
	var group errgroup.Group
	group.SetLimit(parallelDials) // the server limits concurrent joins
	for i, cookie := range cookies {
		group.Go(func() error {
			conn, _, err := s.dial(ctx, cookie)
			for range dialRetries {
				if err == nil {
					break
				}
				time.Sleep(time.Second)
				conn, _, err = s.dial(ctx, cookie)
			}
			if err != nil {
				return err
			}
			socket := idleSocket{conn, make(chan error, 1)}
			sockets[i] = socket
			go func() {
				for { // reading also answers the server's pings
					if _, _, err := conn.NextReader(); err != nil {
						socket.ended <- err
						return
					}
				}
			}()
			return nil
		})
	}
	return sockets, group.Wait()
}

// closeSockets closes all websockets. It fails when the server had closed one before: then the figures are those of fewer.
func closeSockets(sockets []idleSocket) error {
	ended := 0
	var lastErr error
	for _, socket := range sockets {
		select {
		case err := <-socket.ended:
			ended, lastErr = ended+1, err
		default:
		}
	}
	var all sync.WaitGroup
	for _, socket := range sockets {
		all.Go(func() { _ = socket.conn.Close() })
	}
	all.Wait()
	if ended > 0 {
		return fmt.Errorf("%d of %d idle websockets were closed by the server: %w", ended, len(sockets), lastErr)
	}
	return nil
}

// raiseFileLimit raises this process's limit of open files to n, which the servers that it starts inherit. It fails when the
// hard limit is lower.
func raiseFileLimit(n uint64) error {
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
