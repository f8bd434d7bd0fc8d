package edge

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"balanza/e2e/testenv"
)

// unchecked is a Balancer whose upstreams all count as up and are not checked, so that requests find their faults.
func unchecked(t *testing.T, waitTimeout time.Duration, addresses ...string) (*Balancer, string) {
	t.Helper()
	b, err := New(Config{
		Primary: addresses, Default: addresses, WaitTimeout: waitTimeout, Logger: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, u := range b.upstreams() {
		u.setHealth(true, "")
	}
	front := httptest.NewServer(http.HandlerFunc(b.handle))
	t.Cleanup(front.Close)
	return b, front.URL
}

// rawUpstream reads a request from every connection and passes the connection to serve, with its number from 1.
func rawUpstream(t *testing.T, serve func(n int64, c net.Conn)) (string, *atomic.Int64) {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ln.Close() })
	var requests atomic.Int64
	go func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				req, err := http.ReadRequest(bufio.NewReader(c))
				if err != nil {
					return
				}
				_, _ = io.Copy(io.Discard, req.Body)
				serve(requests.Add(1), c)
			}()
		}
	}()
	return ln.Addr().String(), &requests
}

// failures counts the attempts without an answer.
func failures(b *Balancer) (n int64) {
	for _, s := range b.Status() {
		n += s.Failures
	}
	return n
}

func TestRetryByMethodAndFailure(t *testing.T) {
	const closed, breaks, breaksInBody = "closed port", "breaks", "breaks in the answer's body"
	for _, test := range []struct {
		first, method, body string
		status              int
	}{
		{closed, "GET", "", 200}, {closed, "HEAD", "", 200}, {closed, "OPTIONS", "", 200}, {closed, "GET", "b", 200},
		{closed, "POST", "b", 200}, {closed, "POST", "", 200}, {closed, "PUT", "b", 200}, {closed, "DELETE", "", 200},
		{breaks, "GET", "", 200}, {breaks, "HEAD", "", 200}, {breaks, "OPTIONS", "", 200}, {breaks, "GET", "b", 502},
		{breaks, "POST", "b", 502}, {breaks, "POST", "", 502}, {breaks, "PUT", "b", 502}, {breaks, "PATCH", "b", 502},
		{breaks, "DELETE", "", 502},
		{breaksInBody, "GET", "", 200},
	} {
		t.Run(test.first+" "+test.method+" "+test.body, func(t *testing.T) {
			var got string
			good := newBackend(t, "", func(w http.ResponseWriter, r *http.Request) {
				text, _ := io.ReadAll(r.Body)
				got = string(text)
			})
			bad, requests := rawUpstream(t, func(_ int64, c net.Conn) {
				if test.first == breaksInBody {
					fmt.Fprint(c, "HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\nhalf")
				}
			})
			want := int64(1)
			if test.first == closed {
				bad, want = "127.0.0.1:"+testenv.FreePort(t), 0
			}
			b, url := unchecked(t, time.Second, bad, good.address)
			req, _ := http.NewRequestWithContext(t.Context(), test.method, url, strings.NewReader(test.body))
			if test.body == "" {
				req.Body = nil
			}
			if status, text := roundTrip(t, req); status != test.status {
				t.Errorf("status %d %s, want %d", status, text, test.status)
			}
			if n := requests.Load(); n != want {
				t.Errorf("the first upstream got %d requests, want %d", n, want)
			}
			retried := test.status == 200
			if n := good.count.Load(); (n == 1) != retried || n > 1 {
				t.Errorf("the second upstream got %d requests", n)
			}
			if retried && got != test.body {
				t.Errorf("the second upstream got the body %q, want %q", got, test.body)
			}
			if n := failures(b); n != 1 {
				t.Errorf("%d failed attempts", n)
			}
		})
	}
}

func TestARetryGoesElsewhereIfItCan(t *testing.T) {
	up := func() *upstream {
		u := newUpstream("a:1", nil, slog.New(slog.DiscardHandler))
		u.setHealth(true, "")
		return u
	}
	a, b := up(), up()
	pair := newTier("default", []*upstream{a, b})
	for i := range 4 { // whichever is next
		if u := pair.next([]*upstream{a}); u != b {
			t.Errorf("call %d: the upstream that had failed", i)
		}
	}
	if pair.next([]*upstream{a, b}) == nil {
		t.Error("both had failed, and neither is chosen")
	}
}

// A cluster is one address: another worker may accept the next connection.
func TestGetIsRepeatedOnTheSameAddress(t *testing.T) {
	address, requests := rawUpstream(t, func(n int64, c net.Conn) {
		if n > 3 {
			fmt.Fprint(c, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
		}
	})
	_, url := unchecked(t, time.Second, address)
	if status, text := get(t, url); status != http.StatusOK || text != "ok" {
		t.Errorf("%d %s", status, text)
	}
	if n := requests.Load(); n != 4 {
		t.Errorf("%d tries, want 4", n)
	}
}

func TestGetFailsAfterMaxBroken(t *testing.T) {
	address, requests := rawUpstream(t, func(int64, net.Conn) {})
	_, url := unchecked(t, time.Second, address)
	if status, _ := get(t, url); status != http.StatusBadGateway {
		t.Errorf("status %d, want 502", status)
	}
	if n := requests.Load(); n != maxBroken {
		t.Errorf("%d tries, want %d", n, maxBroken)
	}
}

// The upstream closes every connection after its first answer without notice, as at the end of an idle timeout.
func TestClosedIdleConnectionsFailNoRequest(t *testing.T) {
	address, requests := rawUpstream(t, func(_ int64, c net.Conn) {
		fmt.Fprint(c, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
	})
	_, url := unchecked(t, time.Second, address)
	const each = 200
	for i := range each {
		if status, text := get(t, url); status != http.StatusOK {
			t.Fatalf("GET %d: %d %s", i, status, text)
		}
		res, err := http.Post(url, "text/plain", strings.NewReader("b"))
		if err != nil {
			t.Fatal(err)
		}
		res.Body.Close()
		if res.StatusCode != http.StatusOK {
			t.Fatalf("POST %d: %d", i, res.StatusCode)
		}
	}
	if n := requests.Load(); n != 2*each {
		t.Errorf("the upstream got %d requests of %d", n, 2*each)
	}
}

func TestNoUpstream(t *testing.T) {
	_, url := unchecked(t, time.Nanosecond, "127.0.0.1:"+testenv.FreePort(t), "127.0.0.1:"+testenv.FreePort(t))
	for range 2 { // the first finds the fault, the second meets a known one
		res, err := http.Post(url, "text/plain", strings.NewReader("b"))
		if err != nil {
			t.Fatal(err)
		}
		text, _ := io.ReadAll(res.Body)
		res.Body.Close()
		if res.StatusCode != http.StatusServiceUnavailable || res.Header.Get("Retry-After") != "1" {
			t.Errorf("%d, Retry-After %q", res.StatusCode, res.Header.Get("Retry-After"))
		}
		if !strings.Contains(string(text), `"error":-503`) || strings.Count(string(text), "\n") != 1 {
			t.Errorf("not one line of JSON: %q", text)
		}
	}
}

func TestRequestsWaitForARestart(t *testing.T) {
	first := newBackend(t, "", nil)
	b := run(t, Config{Primary: []string{first.address}, Default: []string{first.address}, WaitTimeout: time.Minute})
	eventually(t, "ready", b.ready)
	first.Close()
	eventually(t, "down", func() bool { return !b.ready() })

	var requests sync.WaitGroup
	for _, method := range []string{"GET", "POST", "DELETE"} {
		requests.Go(func() {
			req, _ := http.NewRequestWithContext(t.Context(), method, b.url("/"), strings.NewReader("b"))
			if status, text := roundTrip(t, req); status != http.StatusOK {
				t.Errorf("%s: %d %s", method, status, text)
			}
		})
	}
	time.Sleep(100 * time.Millisecond) // so that they wait; a later one would pass too
	second := newBackend(t, first.address, nil)
	requests.Wait()
	if n := second.count.Load(); n != 3 {
		t.Errorf("%d requests arrived, want 3", n)
	}
}

func TestBackupOnlyWhileNoPrimaryIsUp(t *testing.T) {
	one, two := newBackend(t, "", nil), newBackend(t, "", nil)
	backup, site := newBackend(t, "", nil), newBackend(t, "", nil)
	b := run(t, Config{
		Primary: []string{one.address, two.address}, Backup: []string{backup.address}, Default: []string{site.address},
	})
	eventually(t, "ready", b.ready)
	draw := func(want *backend) {
		t.Helper()
		for range 10 {
			status, text := get(t, b.url("/api/randoms"))
			if status != http.StatusOK || !strings.HasPrefix(text, want.address+" ") {
				t.Errorf("%d %q, want it from %s", status, text, want.address)
			}
		}
	}
	up := func(i int, want bool) {
		t.Helper()
		eventually(t, fmt.Sprintf("server %d up: %v", i, want), func() bool { return b.Status()[i].Up == want })
	}
	one.Close()
	draw(two) // at once: the first refused connection is enough
	up(0, false)
	two.notReady.Store(true)
	up(1, false)
	if cause := b.Status()[1].Cause; cause != "/readyz answers 503" {
		t.Errorf("cause %q", cause)
	}
	draw(backup)
	newBackend(t, one.address, nil)
	up(0, true)
	draw(one)
	if n := backup.count.Load(); n != 10 {
		t.Errorf("the backup got %d requests, want 10", n)
	}
}

// runChild serves the inherited listener. It sends an answer in two halves with a pause, so that a kill hits it.
func runChild() {
	ln, err := net.FileListener(os.NewFile(3, "listener"))
	if err != nil {
		os.Exit(1)
	}
	half := strings.Repeat("x", 20_000)
	_ = http.Serve(ln, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/readyz" {
			return
		}
		w.Header().Set("Content-Length", "40000")
		_, _ = io.WriteString(w, half)
		w.(http.Flusher).Flush()
		time.Sleep(5 * time.Millisecond)
		_, _ = io.WriteString(w, half)
	}))
}

// Two workers share a listener that the test holds, as a master does; they are killed and replaced in turn.
func TestKilledWorkersFailNoGet(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	file, err := ln.(*net.TCPListener).File()
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	spawn := func() *exec.Cmd {
		worker := exec.Command(os.Args[0], childArgument)
		worker.ExtraFiles = []*os.File{file}
		if err := worker.Start(); err != nil {
			t.Fatal(err)
		}
		return worker
	}
	kill := func(worker *exec.Cmd) {
		_ = worker.Process.Kill()
		_ = worker.Wait()
	}
	workers := [2]*exec.Cmd{spawn(), spawn()}
	defer func() {
		kill(workers[0])
		kill(workers[1])
	}()
	address := ln.Addr().String()
	b := run(t, Config{Primary: []string{address}, Default: []string{address}})
	eventually(t, "ready", b.ready)

	ctx, stop := context.WithCancel(t.Context())
	var clients sync.WaitGroup
	var answered atomic.Int64
	for range 6 {
		clients.Go(func() {
			for ctx.Err() == nil {
				if status, text := get(t, b.url("/info")); status != http.StatusOK || len(text) != 40_000 {
					t.Errorf("%d, %d bytes", status, len(text))
				}
				answered.Add(1)
			}
		})
	}
	for i := range 30 {
		// Some answers between two kills show that the worker that is killed is busy.
		before := answered.Load()
		eventually(t, "answers", func() bool { return answered.Load() > before+10 })
		kill(workers[i%2])
		workers[i%2] = spawn()
	}
	stop()
	clients.Wait()
	if failures(b.Balancer) == 0 {
		t.Error("no kill hit a request: the test proves nothing")
	}
}
