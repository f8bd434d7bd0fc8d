package main

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"strconv"
	"strings"
	"sync/atomic"
	"time"
)

// largeBodies sends bodies from just above the limit to twice nginx's old one, with a length and chunked.
func largeBodies(ctx context.Context, t *target, done *atomic.Int64) {
	repeat(ctx, 2, 100*time.Millisecond, done, func(n int) {
		size := []int{64<<10 + 1, 100_000, 130_000, 300_000}[n/2%4]
		method := []string{"GET", "POST", "PUT"}[n%3]
		head := method + " /api/productos HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nConnection: close\r\n"
		body := bytes.Repeat([]byte("x"), size)
		if n%2 == 0 {
			head += "Content-Length: " + strconv.Itoa(size) + "\r\n\r\n"
			t.send(ctx, append([]byte(head), body...), timeout)
			return
		}
		chunked := fmt.Appendf([]byte(head+"Transfer-Encoding: chunked\r\n\r\n"), "%x\r\n%s\r\n0\r\n\r\n", size, body)
		t.send(ctx, chunked, timeout)
	})
}

// largeHeads sends headers and URLs of 4 to 40 KiB.
func largeHeads(ctx context.Context, t *target, done *atomic.Int64) {
	repeat(ctx, 2, 50*time.Millisecond, done, func(n int) {
		filler := strings.Repeat("a", (4+n%36)<<10)
		request := "GET /info?" + filler + " HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
		if n%2 == 0 {
			request = "GET /info HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nX-Filler: " + filler + "\r\n\r\n"
		}
		t.send(ctx, []byte(request), timeout)
	})
}

// drip writes pieces at an interval until the connection ends.
func drip(conn net.Conn, head, piece string, interval time.Duration) {
	_, err := io.WriteString(conn, head)
	for err == nil {
		time.Sleep(interval)
		_, err = io.WriteString(conn, piece)
	}
}

func halfHeaders(ctx context.Context, t *target, done *atomic.Int64) {
	hold(ctx, 3000, time.Second, t, done, func(conn net.Conn) {
		drip(conn, "GET / HTTP/1.1\r\nHost: localhost\r\n", "X-Slow: 1\r\n", 2*time.Second)
	})
}

func slowUploads(ctx context.Context, t *target, done *atomic.Int64) {
	hold(ctx, 540, time.Second, t, done, func(conn net.Conn) {
		drip(conn, "POST /login HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: 65536\r\n\r\n",
			strings.Repeat("x", 8<<10), 3*time.Second)
	})
}

func idleConnections(ctx context.Context, t *target, done *atomic.Int64) {
	hold(ctx, 500, time.Second, t, done, func(conn net.Conn) { _, _ = io.CopyN(io.Discard, conn, 1) })
}

// deafReaders asks for large answers and takes none of them.
func deafReaders(ctx context.Context, t *target, done *atomic.Int64) {
	hold(ctx, 20, time.Second, t, done, func(conn net.Conn) {
		_ = conn.(*net.TCPConn).SetReadBuffer(4 << 10)
		request := "GET /api/productos HTTP/1.1\r\nHost: localhost\r\n\r\n"
		_, _ = io.WriteString(conn, strings.Repeat(request, 100))
		select {
		case <-ctx.Done():
		case <-time.After(time.Minute):
		}
	})
}

func abandonedDraws(ctx context.Context, t *target, done *atomic.Int64) {
	repeat(ctx, 4, 40*time.Millisecond, done, func(int) {
		t.send(ctx, []byte("GET /api/randoms?cant=1000000000 HTTP/1.1\r\nHost: localhost\r\n\r\n"), 3*time.Millisecond)
	})
}

func wrongLogins(ctx context.Context, t *target, done *atomic.Int64) {
	repeat(ctx, 4, 200*time.Millisecond, done, func(n int) {
		t.call(ctx, "POST", "/login", map[string]string{"email": fmt.Sprintf("nobody-%d@example.org", n%200), "password": "wrong"})
	})
}

func signUps(ctx context.Context, t *target, done *atomic.Int64) {
	repeat(ctx, 4, time.Second, done, func(n int) {
		t.call(ctx, "POST", "/signup", map[string]string{
			"email": fmt.Sprintf("many-%d-%d@example.org", time.Now().UnixNano(), n), "password": "un mate para cada cuenta",
			"nombre": "Muchas", "apellido": "Cuentas", "edad": "30", "alias": "m",
		})
	})
}

func productFlood(ctx context.Context, t *target, done *atomic.Int64) {
	repeat(ctx, 4, 20*time.Millisecond, done, func(n int) {
		t.call(ctx, "POST", "/api/productos", map[string]any{
			"nombre": strings.Repeat("n", 100), "precio": n, "foto": "https://example.org/" + strings.Repeat("f", 2000),
		})
	})
}

func lists(ctx context.Context, t *target, done *atomic.Int64) {
	repeat(ctx, 2, 50*time.Millisecond, done, func(int) {
		t.call(ctx, "GET", "/api/productos", nil)
	})
}
