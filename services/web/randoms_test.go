package web

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"balanza/services/limits"
)

// drawsAtOnce sends that many requests at once, from the addresses of a function, and returns how often each status came.
func drawsAtOnce(t *testing.T, v *runningSite, requests int, path string, address func(int) string) map[int]int {
	t.Helper()
	var mu sync.Mutex
	statuses := make(map[int]int)
	var wg sync.WaitGroup
	for i := range requests {
		wg.Go(func() {
			a := v.send(t, call{path: path, header: map[string]string{"X-Forwarded-For": address(i), "Accept": "application/json"}})
			if a.StatusCode == http.StatusTooManyRequests && (a.Header.Get("Retry-After") != "1" || a.jsonError(t).Error != codeTooMany) {
				t.Errorf("%v %s", a.Header, a.body)
			}
			mu.Lock()
			defer mu.Unlock()
			statuses[a.StatusCode]++
		})
	}
	wg.Wait()
	return statuses
}

// An address, or an IPv6 network, draws at most so many times at a time; other addresses and small draws are not affected.
func TestDrawsOfOneAddress(t *testing.T) {
	p := startProcess(t, t.TempDir(), Config{TrustedProxies: []string{"127.0.0.1"}})
	stop := p.victim(t, "/info")
	defer stop()
	limit := limits.Default().Draws
	for _, address := range []func(int) string{
		func(int) string { return "192.0.2.1" },
		func(i int) string { return fmt.Sprintf("2001:db8::%x", i) },
	} {
		got := drawsAtOnce(t, p.runningSite, 40, "/api/randoms?cant=40000000", address)
		if got[http.StatusOK] != limit || got[http.StatusTooManyRequests] != 40-limit {
			t.Errorf("%v", got)
		}
	}
	many := func(i int) string { return fmt.Sprintf("192.0.2.%d", i) }
	if got := drawsAtOnce(t, p.runningSite, 40, "/api/randoms?cant=2000000", many); got[http.StatusOK] != 40 {
		t.Errorf("40 addresses: %v", got)
	}
	if got := drawsAtOnce(t, p.runningSite, 40, "/api/randoms?cant=999999", func(int) string { return "192.0.2.1" }); got[http.StatusOK] != 40 {
		t.Errorf("small draws: %v", got)
	}
}

// processorTime is what this process has used.
func processorTime(t *testing.T) time.Duration {
	t.Helper()
	var usage syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &usage); err != nil {
		t.Fatal(err)
	}
	return time.Duration(usage.Utime.Nano() + usage.Stime.Nano())
}

// A draw ends with its client's connection, whether the client closes it, ends its own side, or resets it.
func TestDrawsEndWithTheirClients(t *testing.T) {
	l := limits.Default()
	l.Draws = 1000
	p := startProcess(t, t.TempDir(), Config{Limits: l})
	for name, leave := range map[string]func(*net.TCPConn){
		"close":    func(c *net.TCPConn) { c.Close() },
		"shutdown": func(c *net.TCPConn) { _ = c.CloseWrite() },
		"reset":    func(c *net.TCPConn) { _ = c.SetLinger(0); c.Close() },
	} {
		for range 100 {
			conn, err := net.Dial("tcp", strings.TrimPrefix(p.url, "http://"))
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			// What is sent behind the request must not hide the end.
			get := "GET /api/randoms?cant=1000000000 HTTP/1.1\r\nHost: localhost\r\n\r\n"
			if _, err := io.WriteString(conn, get+get); err != nil {
				t.Fatal(err)
			}
			time.Sleep(3 * time.Millisecond)
			leave(conn.(*net.TCPConn))
			if name == "shutdown" {
				_ = conn.SetReadDeadline(time.Now().Add(20 * time.Second))
				if answer, err := http.ReadResponse(bufio.NewReader(conn), nil); err != nil || answer.StatusCode != errClientLeft.status {
					t.Fatalf("%v %v", answer, err)
				}
			}
		}
		time.Sleep(time.Second)
		before := processorTime(t)
		time.Sleep(500 * time.Millisecond)
		if used := processorTime(t) - before; used > 200*time.Millisecond {
			t.Errorf("%s: %v of processor time in 500 ms after all clients have left", name, used)
		}
	}
	p.send(t, call{path: "/api/randoms?cant=1000000"}).want(t, http.StatusOK)
}
