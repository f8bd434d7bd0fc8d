package edge

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/gorilla/websocket"
)

// keepingUpstream reads requests from every connection and writes what answer returns, until that says to close it.
func keepingUpstream(t *testing.T, answer func(r *http.Request) (text string, keep bool)) (address string, conns *atomic.Int64) {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ln.Close() })
	conns = &atomic.Int64{}
	go func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			conns.Add(1)
			go func() {
				defer c.Close()
				in := bufio.NewReader(c)
				for {
					r, err := http.ReadRequest(in)
					if err != nil {
						return
					}
					_, _ = io.Copy(io.Discard, r.Body)
					text, keep := answer(r)
					if _, err := io.WriteString(c, text); err != nil || !keep {
						return
					}
				}
			}()
		}
	}()
	return ln.Addr().String(), conns
}

// Each kind of answer reaches the client as it is, and a connection is used again only where the answer allows it.
func TestKindsOfAnswers(t *testing.T) {
	long := strings.Repeat("x", 3*maxBuffered)
	const trailers = "3\r\nabc\r\n0\r\nX-Sum: 7\r\n\r\n"
	for _, test := range []struct {
		name, method, answer string
		closes               bool // the upstream does, after the answer
		status               int
		body                 string
		header               map[string]string // of the client's answer; empty: not there
		trailer              string            // X-Sum
		broken, reused       bool
	}{
		{name: "length", answer: "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nKeep-Alive: timeout=5\r\nX-A: 1\r\nX-A: 2\r\n\r\nok", status: 200,
			body: "ok", header: map[string]string{"Content-Length": "2", "Keep-Alive": "", "X-A": "1|2"}, reused: true},
		{name: "length 0", answer: "HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n", status: 404, reused: true},
		{name: "long", answer: "HTTP/1.1 200 OK\r\nContent-Length: " + fmt.Sprint(len(long)) + "\r\n\r\n" + long, status: 200, body: long, reused: true},
		{name: "close", answer: "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok", status: 200, body: "ok",
			header: map[string]string{"Connection": ""}},
		{name: "close, at once", closes: true, answer: "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok", status: 200, body: "ok"},
		{name: "hop-by-hop", answer: "HTTP/1.1 200 OK\r\nConnection: X-Hop\r\nX-Hop: 1\r\nUpgrade: h2c\r\nContent-Length: 2\r\n\r\nok", status: 200,
			body: "ok", header: map[string]string{"X-Hop": "", "Upgrade": ""}, reused: true},
		{name: "HTTP/1.0", closes: true, answer: "HTTP/1.0 200 OK\r\n\r\nok", status: 200, body: "ok"},
		{name: "no length", closes: true, answer: "HTTP/1.1 200 OK\r\n\r\nok", status: 200, body: "ok"},
		{name: "chunks", answer: "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n", status: 200, body: "ok", reused: true},
		{name: "trailer", answer: "HTTP/1.1 200 OK\r\nTrailer: X-Sum\r\nTransfer-Encoding: chunked\r\n\r\n" + trailers, status: 200, body: "abc",
			trailer: "7", reused: true},
		{name: "trailer without notice", answer: "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + trailers, status: 200, body: "abc",
			trailer: "7", reused: true},
		{name: "HEAD", method: "HEAD", answer: "HTTP/1.1 200 OK\r\nContent-Length: 200000\r\n\r\n", status: 200,
			header: map[string]string{"Content-Length": "200000"}, reused: true},
		{name: "HEAD, chunks", method: "HEAD", answer: "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", status: 200, reused: true},
		{name: "204", answer: "HTTP/1.1 204 No Content\r\n\r\n", status: 204, reused: true},
		{name: "304", answer: "HTTP/1.1 304 Not Modified\r\nETag: \"a\"\r\nContent-Length: 20\r\n\r\n", status: 304,
			header: map[string]string{"ETag": `"a"`}, reused: true},
		{name: "unasked bytes", answer: "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nokHTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil", status: 200, body: "ok"},
		{name: "POST", method: "POST", answer: "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok", status: 200, body: "ok"},
		{name: "broken chunks", closes: true, answer: "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n", status: 200, broken: true},
		{name: "long and broken", closes: true, answer: "HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n" + long[:90_000], status: 200, broken: true},
		{name: "short and broken", closes: true, answer: "HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nok", status: 502},
		{name: "no HTTP", answer: "SSH-2.0-x\r\n\r\n", status: 502},
		{name: "two lengths", answer: "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\nok", status: 502},
		{name: "long header", answer: "HTTP/1.1 200 OK\r\n" + strings.Repeat("X-A: "+long+"\r\n", 10), status: 502},
		{name: "protocol nobody asked for", answer: "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n", status: 502},
		{name: "hints without end", answer: strings.Repeat("HTTP/1.1 103 Early Hints\r\n\r\n", 20), status: 502},
	} {
		t.Run(test.name, func(t *testing.T) {
			address, conns := keepingUpstream(t, func(*http.Request) (string, bool) { return test.answer, !test.closes })
			b, url := unchecked(t, time.Second, address)
			for range 2 {
				req, _ := http.NewRequestWithContext(t.Context(), test.method, url, nil)
				res, err := http.DefaultTransport.RoundTrip(req)
				if err != nil {
					t.Fatal(err)
				}
				text, err := io.ReadAll(res.Body)
				res.Body.Close()
				if res.StatusCode != test.status || (err != nil) != test.broken {
					t.Fatalf("status %d, error %v", res.StatusCode, err)
				}
				if test.status != http.StatusBadGateway && !test.broken && string(text) != test.body {
					t.Errorf("%d bytes %.50q, want %d bytes", len(text), text, len(test.body))
				}
				for name, want := range test.header {
					if got := strings.Join(res.Header.Values(name), "|"); got != want {
						t.Errorf("%s is %q, want %q", name, got, want)
					}
				}
				if got := res.Trailer.Get("X-Sum"); got != test.trailer {
					t.Errorf("trailer %q, want %q", got, test.trailer)
				}
			}
			if test.status == http.StatusBadGateway {
				return
			}
			if n := conns.Load(); (n == 1) != test.reused || n > 2 {
				t.Errorf("%d connections for two requests", n)
			}
			if n := failures(b); n != 0 {
				t.Errorf("%d failures are counted", n)
			}
		})
	}
}

// Connections that are not needed become old and are closed.
func TestIdleConnectionsEnd(t *testing.T) {
	address, conns := keepingUpstream(t, func(*http.Request) (string, bool) { return "HTTP/1.1 204 No Content\r\n\r\n", true })
	b, url := unchecked(t, time.Second, address)
	for range 20 {
		get(t, url)
	}
	if n := conns.Load(); n != 1 {
		t.Errorf("%d connections for 20 requests, one after the other", n)
	}
	u := b.site.tiers[0].all()[0]
	u.pooled.closeIdle(time.Hour)
	if n := len(u.pooled.idle); n != 1 {
		t.Fatalf("%d connections are idle", n)
	}
	u.pooled.idle[0].idle = time.Now().Add(-2 * idleTimeout)
	get(t, url)
	if n := conns.Load(); n != 2 {
		t.Errorf("an old connection was used: %d connections", n)
	}
	u.pooled.closeIdle(0)
	if n := len(u.pooled.idle); n != 0 {
		t.Errorf("%d connections are left", n)
	}
}

// Early hints reach the client before the answer, and an HTTP/1.0 client gets none.
func TestInformationalAnswers(t *testing.T) {
	address, _ := keepingUpstream(t, func(*http.Request) (string, bool) {
		return "HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok", true
	})
	_, url := unchecked(t, time.Second, address)
	for _, version := range []string{"1.1", "1.0"} {
		c, in := dial(t, strings.TrimPrefix(url, "http://"))
		fmt.Fprintf(c, "GET / HTTP/%s\r\nHost: localhost\r\n\r\n", version)
		res := readAnswer(t, in)
		if version == "1.1" {
			if res.StatusCode != http.StatusEarlyHints || res.Header.Get("Link") != "</a>" {
				t.Errorf("first %s, Link %q", res.Status, res.Header.Get("Link"))
			}
			res = readAnswer(t, in)
		}
		if res.StatusCode != http.StatusOK || res.Header.Get("Link") != "" {
			t.Errorf("HTTP/%s: %s, Link %q", version, res.Status, res.Header.Get("Link"))
		}
	}
}

// An answer may come in pieces, with pauses anywhere.
func TestAnswersInPieces(t *testing.T) {
	address, _ := rawUpstream(t, func(_ int64, c net.Conn) {
		for _, piece := range []string{"HTTP/1.1 103 Early Hints\r", "\n\r\nHT", "TP/1.1 200 OK\r\nContent-Le", "ngth: 4\r\n\r\nab", "cd"} {
			time.Sleep(3 * firstWait)
			_, _ = io.WriteString(c, piece)
		}
	})
	b, url := unchecked(t, time.Second, address)
	for _, method := range []string{http.MethodGet, http.MethodPost} {
		req, _ := http.NewRequestWithContext(t.Context(), method, url, nil)
		if status, text := roundTrip(t, req); status != http.StatusOK || text != "abcd" {
			t.Errorf("%s: %d %q", method, status, text)
		}
	}
	if n := failures(b); n != 0 {
		t.Errorf("%d failures are counted", n)
	}
}

// What is made piece by piece arrives piece by piece, the header before the first.
func TestStreamsAreFlushed(t *testing.T) {
	for _, kind := range []string{"text/event-stream; charset=utf-8", "application/json"} {
		next := make(chan bool)
		site := newBackend(t, "", func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", kind)
			w.(http.Flusher).Flush()
			for range next {
				_, _ = io.WriteString(w, "data: x\n\n")
				w.(http.Flusher).Flush()
			}
		})
		_, url := unchecked(t, time.Second, site.address)
		res, err := http.Get(url) // it returns with the header
		if err != nil {
			t.Fatal(err)
		}
		for range 3 {
			next <- true
			piece := make([]byte, len("data: x\n\n"))
			if _, err := io.ReadFull(res.Body, piece); err != nil {
				t.Fatal(err)
			}
		}
		close(next)
		if rest, err := io.ReadAll(res.Body); len(rest) > 0 || err != nil {
			t.Errorf("%q, error %v", rest, err)
		}
		res.Body.Close()
	}
}

// The upstream learns of the client's end, before its answer begins and while it is on its way.
func TestClientsEndEndsTheWork(t *testing.T) {
	for _, begun := range []bool{false, true} {
		entered, ended := make(chan bool), make(chan bool)
		site := newBackend(t, "", func(w http.ResponseWriter, r *http.Request) {
			if begun {
				_, _ = io.WriteString(w, "half")
				w.(http.Flusher).Flush()
			}
			entered <- true
			<-r.Context().Done()
			ended <- true
		})
		b := run(t, Config{Primary: []string{site.address}, Default: []string{site.address}})
		eventually(t, "ready", b.ready)
		c, in := dial(t, b.address)
		fmt.Fprint(c, "GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
		<-entered
		if begun {
			if _, err := in.Peek(1); err != nil {
				t.Fatal(err)
			}
		}
		c.Close()
		select {
		case <-ended:
		case <-time.After(20 * time.Second):
			t.Fatalf("the work goes on, answer begun: %v", begun)
		}
		eventually(t, "499 or 200 is counted", func() bool {
			n := b.Totals().Requests
			return n[2]+n[4] == 1 && (n[2] == 1) == begun
		})
		if n := failures(b.Balancer); n != 0 {
			t.Errorf("%d failures are counted", n)
		}
	}
}

// An upstream may reject a body that it has not read, and close the connection.
func TestAnswerBeforeTheBodyIsRead(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	go func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			_, _ = bufio.NewReaderSize(c, 16).ReadString('\n') // the request line
			fmt.Fprint(c, "HTTP/1.1 413 Too Large\r\nConnection: close\r\nContent-Length: 2\r\n\r\nno")
			_ = c.(*net.TCPConn).CloseWrite()
			time.Sleep(50 * time.Millisecond)
			c.Close()
		}
	}()
	_, url := unchecked(t, time.Second, ln.Addr().String())
	res, err := http.Post(url, "text/plain", strings.NewReader(strings.Repeat("b", 60_000)))
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	if text, _ := io.ReadAll(res.Body); res.StatusCode != http.StatusRequestEntityTooLarge || string(text) != "no" {
		t.Errorf("%s %q", res.Status, text)
	}
}

// A request for a websocket that the upstream rejects has an answer as any other, and frames that come with the request
// arrive.
func TestWebsocketHandshakes(t *testing.T) {
	site := newBackend(t, "", echo)
	b := run(t, Config{Primary: []string{site.address}, Default: []string{site.address}})
	eventually(t, "ready", b.ready)
	_, res, err := websocket.DefaultDialer.DialContext(t.Context(), "ws://"+b.address+"/ws", http.Header{"Origin": {"http://theirs"}})
	if !errors.Is(err, websocket.ErrBadHandshake) || res.StatusCode != http.StatusForbidden || res.Header.Get(requestID) == "" {
		t.Errorf("%v, error %v", res, err)
	}

	c, in := dial(t, b.address)
	fmt.Fprint(c, "GET /ws HTTP/1.1\r\nHost: localhost\r\nOrigin: http://ours\r\nConnection: keep-alive, upgrade\r\nUpgrade: WebSocket\r\n"+
		"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n\x81\x82\x00\x00\x00\x00hi")
	if res := readAnswer(t, in); res.StatusCode != http.StatusSwitchingProtocols || len(res.Header.Values("Connection")) != 1 {
		t.Fatalf("%s %v", res.Status, res.Header)
	}
	frame := make([]byte, 4)
	if _, err := io.ReadFull(in, frame); err != nil || string(frame) != "\x81\x02hi" {
		t.Errorf("%q, error %v", frame, err)
	}
	c.Close()
	eventually(t, "the websocket is counted", func() bool { return b.Totals().Requests[1] == 1 })
}

// Answers of any size arrive whole on one connection, whether they are sent in one piece, in some, or as they come.
func TestSizesOfAnswers(t *testing.T) {
	site := newBackend(t, "", func(w http.ResponseWriter, r *http.Request) {
		n, _ := strconv.Atoi(r.URL.RawQuery)
		w.Header().Set("Content-Length", strconv.Itoa(n))
		_, _ = io.WriteString(w, strings.Repeat("0123456789", n/10+1)[:n])
	})
	b := run(t, Config{Primary: []string{site.address}, Default: []string{site.address}})
	eventually(t, "ready", b.ready)
	c, in := dial(t, b.address)
	for _, n := range []int{0, 1, minHeld - 1, minHeld, 4000, 4096, 9000, writePiece, maxBuffered, maxBuffered + 1, 300_000, 1} {
		fmt.Fprintf(c, "GET /?%d HTTP/1.1\r\nHost: localhost\r\n\r\n", n)
		res, err := http.ReadResponse(in, nil)
		if err != nil {
			t.Fatal(err)
		}
		text, err := io.ReadAll(res.Body)
		if want := strings.Repeat("0123456789", n/10+1)[:n]; err != nil || res.ContentLength != int64(n) || string(text) != want {
			t.Errorf("%d bytes: got %d of %d, error %v", n, len(text), res.ContentLength, err)
		}
	}
}
