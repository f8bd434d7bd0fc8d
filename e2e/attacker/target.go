package main

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"time"
)

const timeout = 10 * time.Second // of a dial, and of a request where an attack sets no other limit

// target is the server, and the account at it that some attacks use.
type target struct {
	address         string // host:port
	email, password string

	mu     sync.Mutex
	cookie *http.Cookie
}

// dial connects, or returns nil.
func (t *target) dial(ctx context.Context) net.Conn {
	dialer := net.Dialer{Timeout: timeout}
	conn, err := dialer.DialContext(ctx, "tcp", t.address)
	if err != nil {
		return nil
	}
	return conn
}

// send sends bytes on a new connection and reads the answer for at most the time limit. The server must answer before the
// client's write breaks; send does not check it, since the victim is what counts.
func (t *target) send(ctx context.Context, request []byte, limit time.Duration) {
	conn := t.dial(ctx)
	if conn == nil {
		return
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(limit))
	_, _ = conn.Write(request)
	_, _ = io.CopyN(io.Discard, conn, 1<<20)
}

// call makes a request with the account's cookie and a JSON body, and returns the status, 0 without an answer.
func (t *target) call(ctx context.Context, method, path string, body any) int {
	encoded, err := json.Marshal(body)
	if err != nil {
		panic(err)
	}
	request, err := http.NewRequestWithContext(ctx, method, "http://"+t.address+path, bytes.NewReader(encoded))
	if err != nil {
		return 0
	}
	request.Host = "localhost"
	request.Header.Set("Content-Type", "application/json")
	request.Header.Set("Accept", "application/json")
	if cookie := t.session(ctx); cookie != nil {
		request.AddCookie(cookie)
	}
	answer, err := client.Do(request)
	if err != nil {
		return 0
	}
	defer answer.Body.Close()
	_, _ = io.Copy(io.Discard, answer.Body)
	return answer.StatusCode
}

var client = &http.Client{
	Timeout:       timeout,
	Transport:     &http.Transport{MaxIdleConnsPerHost: 64, MaxConnsPerHost: 64},
	CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
}

// session logs the account in once and returns its cookie; nil when that fails.
func (t *target) session(ctx context.Context) *http.Cookie {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.cookie != nil || t.email == "" {
		return t.cookie
	}
	body, _ := json.Marshal(map[string]string{"email": t.email, "password": t.password})
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://"+t.address+"/login", bytes.NewReader(body))
	if err != nil {
		return nil
	}
	request.Host = "localhost"
	request.Header.Set("Content-Type", "application/json")
	answer, err := client.Do(request)
	if err != nil {
		return nil
	}
	defer answer.Body.Close()
	for _, cookie := range answer.Cookies() {
		if cookie.Name == "balanza" {
			t.cookie = cookie
		}
	}
	return t.cookie
}

// repeat calls act in a number of goroutines, each at an interval, until ctx ends.
func repeat(ctx context.Context, goroutines int, interval time.Duration, done *atomic.Int64, act func(n int)) {
	var running sync.WaitGroup
	for i := range goroutines {
		running.Go(func() {
			tick := time.NewTicker(interval)
			defer tick.Stop()
			for n := i; ctx.Err() == nil; n += goroutines {
				act(n)
				done.Add(1)
				select {
				case <-tick.C:
				case <-ctx.Done():
				}
			}
		})
	}
	running.Wait()
}

// hold keeps a number of connections, on each of which use runs. A connection that ends is replaced after the interval.
func hold(ctx context.Context, connections int, interval time.Duration, t *target, done *atomic.Int64, use func(net.Conn)) {
	repeat(ctx, connections, interval, done, func(int) {
		conn := t.dial(ctx)
		if conn == nil {
			return
		}
		defer context.AfterFunc(ctx, func() { conn.Close() })()
		defer conn.Close()
		use(conn)
	})
}
