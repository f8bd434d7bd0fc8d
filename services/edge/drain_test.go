package edge

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/gorilla/websocket"
)

// request sends a GET on c and returns the answer, whose body has been read.
func request(t *testing.T, c net.Conn, in *bufio.Reader, path string) *http.Response {
	t.Helper()
	fmt.Fprintf(c, "GET %s HTTP/1.1\r\nHost: localhost\r\n\r\n", path)
	return readAnswer(t, in)
}

func readAnswer(t *testing.T, in *bufio.Reader) *http.Response {
	t.Helper()
	res, err := http.ReadResponse(in, nil)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.Copy(io.Discard, res.Body); err != nil {
		t.Fatal(err)
	}
	return res
}

func dial(t *testing.T, address string) (net.Conn, *bufio.Reader) {
	t.Helper()
	c, err := net.Dial("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c, bufio.NewReader(c)
}

func TestDrain(t *testing.T) {
	entered, release := make(chan struct{}), make(chan struct{})
	site := newBackend(t, "", func(_ http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/slow" {
			close(entered)
			<-release
		}
	})
	upstreams := []string{site.address}
	first, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	file, err := first.(*net.TCPListener).File()
	if err != nil {
		t.Fatal(err)
	}
	second, err := net.FileListener(file)
	if err != nil {
		t.Fatal(err)
	}
	file.Close()
	old := runOn(t, Config{Primary: upstreams, Default: upstreams, DrainDelay: time.Minute}, first)
	eventually(t, "ready", old.ready)

	idle, fromIdle := dial(t, old.address)
	if res := request(t, idle, fromIdle, "/"); res.Close {
		t.Error("an answer said Connection: close before the drain")
	}
	busy, fromBusy := dial(t, old.address)
	fmt.Fprint(busy, "GET /slow HTTP/1.1\r\nHost: localhost\r\n\r\n")
	<-entered
	old.stop()
	eventually(t, "not ready", func() bool { return !old.ready() })

	// The port stays open: the successor holds it too.
	successor := runOn(t, Config{Primary: upstreams, Default: upstreams}, second)
	if status, _ := get(t, successor.url("/")); status != http.StatusOK {
		t.Errorf("the successor answers %d", status)
	}
	<-old.draining.Done()
	if res := request(t, idle, fromIdle, "/"); res.StatusCode != http.StatusOK || !res.Close {
		t.Errorf("on a connection kept from before: %d, close %v", res.StatusCode, res.Close)
	}
	close(release)
	if res := readAnswer(t, fromBusy); res.StatusCode != http.StatusOK || !res.Close {
		t.Errorf("the request in flight: %d, close %v", res.StatusCode, res.Close)
	}
	// Both connections are closed, so nothing waits for the end of DrainDelay.
	if err := <-old.ended; err != nil {
		t.Error(err)
	}
	successor.stop()
	if err := <-successor.ended; err != nil {
		t.Error(err)
	}
	if c, err := net.Dial("tcp", old.address); err == nil {
		c.Close()
		t.Error("the port is still open")
	}
}

func TestDrainHasAnEnd(t *testing.T) {
	entered := make(chan struct{})
	stopped := make(chan struct{})
	site := newBackend(t, "", func(_ http.ResponseWriter, r *http.Request) {
		close(entered)
		<-r.Context().Done()
		close(stopped)
	})
	upstreams := []string{site.address}
	b := run(t, Config{Primary: upstreams, Default: upstreams, DrainTimeout: time.Millisecond})
	eventually(t, "ready", b.ready)
	c, _ := dial(t, b.address)
	fmt.Fprint(c, "GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
	<-entered
	b.stop()
	if err := <-b.ended; err == nil || !strings.Contains(err.Error(), "1 connections cut off") {
		t.Errorf("error %v", err)
	}
	<-stopped // the upstream notices, and stops its work
}

func TestServeNeedsAListener(t *testing.T) {
	site := newBackend(t, "", nil)
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ln.Close()
	b := runOn(t, Config{Primary: []string{site.address}, Default: []string{site.address}}, ln)
	if err := <-b.ended; !errors.Is(err, net.ErrClosed) {
		t.Errorf("error %v", err)
	}
}

// echo is a websocket endpoint that sends back what it gets, and closes with 1012 when told "restart".
func echo(w http.ResponseWriter, r *http.Request) {
	up := websocket.Upgrader{CheckOrigin: func(r *http.Request) bool { return r.Header.Get("Origin") == "http://ours" }}
	c, err := up.Upgrade(w, r, nil)
	if err != nil {
		return
	}
	defer c.Close()
	for {
		kind, message, err := c.ReadMessage()
		if err != nil {
			return
		}
		if string(message) == "restart" {
			text := websocket.FormatCloseMessage(websocket.CloseServiceRestart, "")
			_ = c.WriteControl(websocket.CloseMessage, text, time.Now().Add(time.Second))
			return
		}
		if err := c.WriteMessage(kind, message); err != nil {
			return
		}
	}
}

func dialSocket(t *testing.T, b *running) *websocket.Conn {
	t.Helper()
	c, _, err := websocket.DefaultDialer.DialContext(t.Context(), "ws://"+b.address+"/ws",
		http.Header{"Origin": {"http://ours"}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

func TestWebsocketsPass(t *testing.T) {
	site := newBackend(t, "", echo)
	b := run(t, Config{Primary: []string{site.address}, Default: []string{site.address}})
	eventually(t, "ready", b.ready)
	one, two, three := dialSocket(t, b), dialSocket(t, b), dialSocket(t, b)
	for _, size := range []int{0, 1, 125, 126, 65_535, 65_536, 300_000} {
		sent := bytes.Repeat([]byte{'z'}, size)
		for _, c := range []*websocket.Conn{one, two} {
			if err := c.WriteMessage(websocket.BinaryMessage, sent); err != nil {
				t.Fatal(err)
			}
			if _, got, err := c.ReadMessage(); err != nil || !bytes.Equal(got, sent) {
				t.Fatalf("%d bytes sent, %d back, error %v", size, len(got), err)
			}
		}
	}
	// The server's own close comes through, and so does the client's going away.
	if err := one.WriteMessage(websocket.TextMessage, []byte("restart")); err != nil {
		t.Fatal(err)
	}
	if _, _, err := one.ReadMessage(); !websocket.IsCloseError(err, websocket.CloseServiceRestart) {
		t.Errorf("the server closed, the client sees %v", err)
	}
	one.Close()
	two.Close()
	eventually(t, "one connection left", func() bool { return b.conns.Load() == 1 })
	// At the drain the balancer closes them.
	b.stop()
	if _, _, err := three.ReadMessage(); !websocket.IsCloseError(err, websocket.CloseServiceRestart) {
		t.Errorf("the balancer ended, the client sees %v", err)
	}
	three.Close()
	if err := <-b.ended; err != nil {
		t.Error(err)
	}
}

// A client that never answers the close frame must not hold the drain up to its limit.
func TestSilentWebsocketIsDropped(t *testing.T) {
	site := newBackend(t, "", echo)
	b := run(t, Config{Primary: []string{site.address}, Default: []string{site.address}, DrainTimeout: time.Hour})
	eventually(t, "ready", b.ready)
	dialSocket(t, b)
	b.stop()
	if err := <-b.ended; err != nil {
		t.Error(err)
	}
}

func TestCloseFrameStandsBetweenFrames(t *testing.T) {
	long := slices.Concat([]byte{0x82, 126, 1, 0}, make([]byte, 256))
	longer := slices.Concat([]byte{0x82, 127, 0, 0, 0, 0, 0, 1, 0, 0}, make([]byte, 65_536))
	short, empty := []byte{0x81, 2, 'h', 'i'}, []byte{0x89, 0}
	stream := slices.Concat(short, long, empty, longer, short)
	ends := map[int]bool{}
	at := 0
	for _, frame := range [][]byte{short, long, empty, longer, short} {
		ends[at] = true
		at += len(frame)
	}
	ends[at] = true
	for _, step := range []int{1, 7, 4096} {
		var f frameParser
		for at := 0; at < len(stream); {
			if f.complete() != ends[at] {
				t.Fatalf("step %d, byte %d: between frames %v, want %v", step, at, f.complete(), ends[at])
			}
			next := min(at+step, len(stream))
			f.write(stream[at:next])
			at = next
		}
		if !f.complete() {
			t.Errorf("step %d: not between frames at the end", step)
		}
	}
}

func TestSlowHeaderEndsTheConnection(t *testing.T) {
	site := newBackend(t, "", nil)
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	b, err := New(Config{Primary: []string{site.address}, Default: []string{site.address}, DrainTimeout: time.Second})
	if err != nil {
		t.Fatal(err)
	}
	b.headerTimeout = 50 * time.Millisecond
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- b.Serve(ctx, ln) }()
	c, in := dial(t, ln.Addr().String())
	fmt.Fprint(c, "GET / HTTP/1.1\r\nHost: localhost\r\nX-Slow: ")
	if text, err := io.ReadAll(in); err != nil || bytes.Contains(text, []byte("200 OK")) {
		t.Errorf("%q, error %v; want an end of the connection", text, err)
	}
	stop()
	if err := <-ended; err != nil {
		t.Error(err)
	}
	if n := site.count.Load(); n != 0 {
		t.Error("it reached the upstream")
	}
}
