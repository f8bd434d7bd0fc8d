package edge

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"os"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"balanza/services/limits"
)

// attacker is the address of the clients beside which others are to be served; those have 127.0.0.1.
const attacker = "127.0.0.77"

// dialFrom connects from an address of this machine's loopback network.
func dialFrom(t *testing.T, source, address string) net.Conn {
	t.Helper()
	d := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(source)}, Timeout: 10 * time.Second}
	c, err := d.DialContext(t.Context(), "tcp", address)
	if err != nil {
		t.Skipf("no connection from %s: %v", source, err) // macOS has no address but 127.0.0.1 there
	}
	t.Cleanup(func() { c.Close() })
	_ = c.SetDeadline(time.Now().Add(time.Minute))
	return c
}

// victim sends requests, each on a new connection, until it is stopped. None may fail.
type victim struct {
	t     *testing.T
	url   string
	stop  context.CancelFunc
	ended sync.WaitGroup
	times []time.Duration
}

func startVictim(t *testing.T, url string) *victim {
	ctx, stop := context.WithCancel(t.Context())
	v := &victim{t: t, url: url, stop: stop}
	v.ended.Go(func() {
		for ctx.Err() == nil {
			began := time.Now()
			if status, text := get(t, url); status != http.StatusOK {
				t.Errorf("the victim got %d %s", status, text)
			}
			v.times = append(v.times, time.Since(began))
			time.Sleep(time.Millisecond)
		}
	})
	t.Cleanup(func() { stop(); v.ended.Wait() })
	return v
}

// median stops the victim and returns the median time of its requests.
func (v *victim) median() time.Duration {
	v.t.Helper()
	v.stop()
	v.ended.Wait()
	if len(v.times) == 0 {
		v.t.Fatal("the victim sent nothing")
	}
	slices.Sort(v.times)
	return v.times[len(v.times)/2]
}

// quietMedian is the median without an attack.
func quietMedian(t *testing.T, url string) time.Duration {
	v := startVictim(t, url)
	time.Sleep(200 * time.Millisecond)
	return v.median()
}

// check compares with the time without an attack.
func (v *victim) check(quiet time.Duration) {
	v.t.Helper()
	if m := v.median(); m > time.Second {
		v.t.Errorf("the victim's median is %v, and %v without the attack", m, quiet)
	}
}

// small are limits that a test reaches soon.
func small() limits.Limits {
	l := limits.Default()
	l.ClientTimeout = 500 * time.Millisecond
	return l
}

func TestSizes(t *testing.T) {
	var gotURL string
	var gotBody, gotHeader int
	site := newBackend(t, "", func(_ http.ResponseWriter, r *http.Request) {
		content, _ := io.ReadAll(r.Body)
		gotURL, gotBody, gotHeader = r.RequestURI, len(content), headerBytes(r)
	})
	b := run(t, Config{
		Primary: []string{site.address}, Default: []string{site.address}, Token: strings.Repeat("t", maxToken),
		ServerNames: "*.example.org",
	})
	eventually(t, "ready", b.ready)
	l := limits.Default()
	// padding makes a request line and header fields of exactly n bytes, with the empty line that follows.
	padding := func(start string, n int) string {
		const field = "X-Padding: \r\n"
		n -= len("\r\n")
		for n-len(start) > 3000 { // several fields, of which none is long
			start += "X-Padding: " + strings.Repeat("p", 2000-len(field)) + "\r\n"
		}
		return start + "X-Padding: " + strings.Repeat("p", n-len(start)-len(field)) + "\r\n"
	}
	for _, test := range []struct {
		name, request string
		status        int
	}{
		{"header, limit", padding("GET / HTTP/1.1\r\nHost: localhost\r\n", l.Header) + "\r\n", 200},
		{"header, limit + 1", padding("GET / HTTP/1.1\r\nHost: localhost\r\n", l.Header+1) + "\r\n", 431},
		{"header, limit + 2 KiB", padding("GET / HTTP/1.1\r\nHost: localhost\r\n", l.Header+2048) + "\r\n", 431},
		{"header, 1 MiB", padding("GET / HTTP/1.1\r\nHost: localhost\r\n", 1<<20) + "\r\n", 431},
		{"header, limit with a body", padding("POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 65536\r\n", l.Header) + "\r\n" +
			strings.Repeat("b", l.Body), 200},
		{"many empty fields", "GET / HTTP/1.1\r\nHost: localhost\r\n" + strings.Repeat("a:\n", 2000) + "\r\n", 431},
		{"URL, limit", "GET /" + strings.Repeat("u", l.URL-1) + " HTTP/1.1\r\nHost: localhost\r\n\r\n", 200},
		{"URL, limit + 1", "GET /" + strings.Repeat("u", l.URL) + " HTTP/1.1\r\nHost: localhost\r\n\r\n", 414},
		{"query, limit + 1", "GET /?" + strings.Repeat("u", l.URL-1) + " HTTP/1.1\r\nHost: localhost\r\n\r\n", 414},
		{"URL that grows", "GET /" + strings.Repeat("ñ", l.URL/4) + " HTTP/1.1\r\nHost: localhost\r\n\r\n", 414},
		{"URL, 1 MiB", "GET /" + strings.Repeat("u", 1<<20) + " HTTP/1.1\r\nHost: localhost\r\n\r\n", 431},
		{"body, limit", fmt.Sprintf("POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n", l.Body) + strings.Repeat("b", l.Body), 200},
		{"body, limit + 1", fmt.Sprintf("POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n", l.Body+1) + strings.Repeat("b", l.Body+1), 413},
		{"body, 1 MiB", "POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1048576\r\n\r\n" + strings.Repeat("b", 1<<20), 413},
		{"last body, 1 MiB", "POST / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Length: 1048576\r\n\r\n" + strings.Repeat("b", 1<<20), 413},
		{"last chunked, 1 MiB", "POST / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\n" + chunks(1<<20), 413},
		{"URL, limit + 1, body of 1 MiB", "POST /" + strings.Repeat("u", l.URL) + " HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1048576\r\n\r\n" + strings.Repeat("b", 1<<20), 414},
		{"chunked, limit", "POST / HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n" + chunks(l.Body), 200},
		{"chunked, limit + 1", "POST / HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n" + chunks(l.Body+1), 413},
		{"chunked, 1 MiB", "POST / HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n" + chunks(1<<20), 413},
		{"GET with a body of 1 MiB", "GET / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1048576\r\n\r\n" + strings.Repeat("b", 1<<20), 413},
		{"chunk without a size", "POST / HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\nx\r\n", 400},
		{"a long host", "GET / HTTP/1.1\r\nHost: " + strings.Repeat("a.", 1500) + "example.org\r\n\r\n", 421},
	} {
		before := site.count.Load()
		c, in := dial(t, b.address)
		_ = c.SetDeadline(time.Now().Add(20 * time.Second))
		// Such a client sends all before it reads anything. A request of 1 MiB does not fit into the kernel's buffers.
		_ = c.(*net.TCPConn).SetWriteBuffer(16 << 10)
		if _, err := io.WriteString(c, test.request); err != nil {
			t.Errorf("%s: %v", test.name, err)
			continue
		}
		res, err := http.ReadResponse(in, nil)
		if err != nil {
			t.Errorf("%s: %v", test.name, err)
			continue
		}
		_, err = io.Copy(io.Discard, res.Body)
		if res.StatusCode != test.status || err != nil {
			t.Errorf("%s: %d, want %d; error %v", test.name, res.StatusCode, test.status, err)
		}
		if arrived := site.count.Load() > before; arrived != (test.status == 200) {
			t.Errorf("%s: it reached the upstream: %v", test.name, arrived)
		}
		if test.status == 200 && gotHeader > l.Header+1024 {
			t.Errorf("%s: the upstream got %d bytes of header, for the URL %.20s", test.name, gotHeader, gotURL)
		}
		if want := strings.Count(test.request, "b"); strings.HasPrefix(test.name, "body") && test.status == 200 && gotBody != want {
			t.Errorf("%s: the upstream got %d bytes, want %d", test.name, gotBody, want)
		}
		c.Close()
	}
	if n := failures(b.Balancer); n != 0 {
		t.Errorf("%d failures of the upstream are counted", n)
	}
}

// chunks is a chunked body of n bytes.
func chunks(n int) string {
	var s strings.Builder
	for n > 0 {
		part := min(n, 10_000)
		fmt.Fprintf(&s, "%x\r\n%s\r\n", part, strings.Repeat("b", part))
		n -= part
	}
	return s.String() + "0\r\n\r\n"
}

// headerBytes is the size of a request's line and header as it arrived.
func headerBytes(r *http.Request) int {
	n := len(r.Method) + len(r.RequestURI) + len("  HTTP/1.1\r\nHost: \r\n") + len(r.Host)
	for name, values := range r.Header {
		for _, v := range values {
			n += len(name) + len(v) + 4
		}
	}
	return n
}

// The balancer's own answers are in the form and the language of the client.
func TestRejectionsAreInTheFormOfTheSite(t *testing.T) {
	site := newBackend(t, "", nil)
	b := run(t, Config{Primary: []string{site.address}, Default: []string{site.address}})
	eventually(t, "ready", b.ready)
	for _, test := range []struct {
		path, host, accept, language string
		body, header, status         int
		want                         string
	}{
		{"/", "localhost", "", "", 70_000, 0, 413, `{"error":-413,"descripcion":"el cuerpo de la petición es demasiado grande"}`},
		{"/", "localhost", "text/html", "en", 70_000, 0, 413, `<html lang="en">`},
		{"/" + strings.Repeat("u", 5000), "localhost", "", "en", 0, 0, 414, `"the URL is too long"`},
		{"/", "localhost", "", "es", 0, 9000, 431, `borre las de este sitio`},
		{"/", "localhost", "text/html", "en", 0, 64 << 10, 431, `cookies of all projects add up: open 127.0.0.1`},
		{"/", "elsewhere.example", "text/html", "es", 0, 0, 421, `agréguelo a BALANZA_SERVER_NAMES`},
	} {
		req, _ := http.NewRequestWithContext(t.Context(), http.MethodPost, b.url(test.path), bytes.NewReader(make([]byte, test.body)))
		req.Host = test.host
		req.Header.Set("Accept", test.accept)
		req.Header.Set("Accept-Language", test.language)
		req.Header.Set("X-Padding", strings.Repeat("p", test.header))
		if status, text := roundTrip(t, req); status != test.status || !strings.Contains(text, test.want) {
			t.Errorf("%d: got %d %s, want %s", test.status, status, text, test.want)
		}
	}
}

// Uploads that are slow, break off or are too large reach no upstream, and others are served meanwhile.
func TestBadUploadsAreNoFailureOfTheUpstream(t *testing.T) {
	site := newBackend(t, "", func(_ http.ResponseWriter, r *http.Request) { _, _ = io.Copy(io.Discard, r.Body) })
	b := run(t, Config{Primary: []string{site.address}, Default: []string{site.address}, Limits: small()})
	eventually(t, "ready", b.ready)
	quiet := quietMedian(t, b.url("/info"))
	site.count.Store(0)
	v := startVictim(t, b.url("/info"))

	const head = "POST /x HTTP/1.1\r\nHost: localhost\r\nContent-Length: 60000\r\n\r\n"
	silent, broken, trickle := dialFrom(t, attacker, b.address), dialFrom(t, attacker, b.address), dialFrom(t, attacker, b.address)
	began := time.Now()
	fmt.Fprint(silent, head+"b")
	fmt.Fprint(broken, head+"b")
	broken.Close()
	var trickling sync.WaitGroup
	trickling.Go(func() {
		_, err := fmt.Fprint(trickle, head)
		for err == nil {
			time.Sleep(20 * time.Millisecond)
			_, err = fmt.Fprint(trickle, "b")
		}
	})
	for range 20 { // 130 KB, which is more than the limit
		c := dialFrom(t, attacker, b.address)
		fmt.Fprint(c, "POST /x HTTP/1.1\r\nHost: localhost\r\nContent-Length: 130000\r\n\r\n"+strings.Repeat("b", 130_000))
		if res, err := http.ReadResponse(bufio.NewReader(c), nil); err != nil || res.StatusCode != http.StatusRequestEntityTooLarge {
			t.Errorf("130 KB: %v, error %v", res, err)
		}
	}
	for _, slow := range []struct {
		name  string
		conn  net.Conn
		least time.Duration
	}{{"silent", silent, 500 * time.Millisecond}, {"trickle", trickle, time.Second}} {
		res, err := http.ReadResponse(bufio.NewReader(slow.conn), nil)
		if err != nil || res.StatusCode != http.StatusRequestTimeout {
			t.Errorf("%s: %v, error %v; want 408", slow.name, res, err)
		}
		if took := time.Since(began); took < slow.least {
			t.Errorf("%s: the limit came after %v", slow.name, took)
		}
	}
	trickling.Wait()
	v.check(quiet)
	if n, sent := site.count.Load(), int64(len(v.times)); n != sent {
		t.Errorf("the upstream got %d requests, want the victim's %d", n, sent)
	}
	if n := failures(b.Balancer); n != 0 {
		t.Errorf("%d failures are counted", n)
	}
}

// A client that waits for the 100 gets it only for a body within the limit, and keeps its connection.
func TestExpectContinue(t *testing.T) {
	site := newBackend(t, "", func(_ http.ResponseWriter, r *http.Request) { _, _ = io.Copy(io.Discard, r.Body) })
	b := run(t, Config{Primary: []string{site.address}, Default: []string{site.address}})
	eventually(t, "ready", b.ready)
	c, in := dial(t, b.address)
	for range 2 {
		fmt.Fprint(c, "POST / HTTP/1.1\r\nHost: localhost\r\nExpect: 100-continue\r\nContent-Length: 3\r\n\r\n")
		if res := readAnswer(t, in); res.StatusCode != http.StatusContinue {
			t.Errorf("first %d", res.StatusCode)
		}
		fmt.Fprint(c, "abc")
		if res := readAnswer(t, in); res.StatusCode != http.StatusOK || res.Close {
			t.Errorf("then %d, close %v", res.StatusCode, res.Close)
		}
	}
	fmt.Fprint(c, "POST / HTTP/1.1\r\nHost: localhost\r\nExpect: 100-continue\r\nContent-Length: 70000\r\n\r\n")
	if res := readAnswer(t, in); res.StatusCode != http.StatusRequestEntityTooLarge {
		t.Errorf("for 70,000 bytes: %d", res.StatusCode)
	}
}

// A client that reads nothing is cut off; one that reads slowly gets all, however long that takes.
func TestSlowReaders(t *testing.T) {
	const size = 8 << 20 // more than the kernel's buffers hold
	site := newBackend(t, "", func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/large" {
			_, _ = w.Write(make([]byte, size))
		}
	})
	b := run(t, Config{Primary: []string{site.address}, Default: []string{site.address}, Limits: small()})
	eventually(t, "ready", b.ready)
	v := startVictim(t, b.url("/info"))
	none, slow := dialFrom(t, attacker, b.address), dialFrom(t, attacker, b.address)
	began := time.Now()
	for _, c := range []net.Conn{none, slow} {
		_ = c.(*net.TCPConn).SetReadBuffer(64 << 10)
		fmt.Fprint(c, "GET /large HTTP/1.1\r\nHost: localhost\r\n\r\n")
	}
	piece, got := make([]byte, 64<<10), 0
	for got < size { // 1.5 s at least: three times the limit
		n, err := io.ReadFull(slow, piece)
		got += n
		if err != nil {
			break
		}
		time.Sleep(12 * time.Millisecond)
	}
	if took := time.Since(began); got < size || took < time.Second {
		t.Errorf("the slow reader got %d of %d bytes in %v", got, size, took)
	}
	eventually(t, "the end of the connection that reads nothing", func() bool {
		b.clients.mu.Lock()
		defer b.clients.mu.Unlock()
		return b.clients.byAddress[netip.MustParseAddr(attacker)].conns == 1
	})
	if text, err := io.ReadAll(none); len(text) >= size {
		t.Errorf("the client that read nothing got all, error %v", err)
	}
	v.median()
}

func TestConnectionsOfOneAddress(t *testing.T) {
	site := newBackend(t, "", echo)
	l := limits.Default()
	l.Connections = 10
	b := run(t, Config{Primary: []string{site.address}, Default: []string{site.address}, Limits: l})
	eventually(t, "ready", b.ready)
	others := newBackend(t, "", nil)
	b2 := run(t, Config{Primary: []string{others.address}, Default: []string{others.address}, Limits: l})
	eventually(t, "ready", b2.ready)
	quiet := quietMedian(t, b2.url("/info"))
	v := startVictim(t, b2.url("/info"))

	var open []net.Conn
	for i := range 10 {
		c := dialFrom(t, attacker, b2.address)
		fmt.Fprint(c, "GET / HTTP/1.1\r\nHost: localhost\r\nX-Half: ")
		open = append(open, c)
		eventually(t, "counted", func() bool {
			b2.clients.mu.Lock()
			defer b2.clients.mu.Unlock()
			one := b2.clients.byAddress[netip.MustParseAddr(attacker)]
			return one != nil && one.conns == i+1
		})
	}
	for range 50 {
		c := dialFrom(t, attacker, b2.address)
		res, err := http.ReadResponse(bufio.NewReader(c), nil)
		if err != nil || res.StatusCode != http.StatusTooManyRequests || res.Header.Get("Retry-After") == "" || !res.Close ||
			res.Header.Get("X-Content-Type-Options") != "nosniff" {
			t.Fatalf("over the limit: %v, error %v", res, err)
		}
		if text, err := io.ReadAll(res.Body); err != nil || len(text) == 0 {
			t.Errorf("%q, error %v", text, err)
		}
		c.Close()
	}
	v.check(quiet)
	open[0].Close()
	eventually(t, "another connection may come", func() bool {
		c := dialFrom(t, attacker, b2.address)
		defer c.Close()
		fmt.Fprint(c, "GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
		res, err := http.ReadResponse(bufio.NewReader(c), nil)
		return err == nil && res.StatusCode == http.StatusOK
	})

	// Websockets count for as long as they are open.
	for range 10 {
		dialSocket(t, b)
	}
	c, in := dial(t, b.address)
	_ = c.SetDeadline(time.Now().Add(10 * time.Second))
	if res := readAnswer(t, in); res.StatusCode != http.StatusTooManyRequests {
		t.Errorf("beside ten websockets: %d", res.StatusCode)
	}
}

func TestClientsShareTheirNetwork(t *testing.T) {
	for _, test := range []struct{ address, want string }{
		{"192.0.2.1", "192.0.2.1"}, {"::ffff:192.0.2.1", "192.0.2.1"},
		{"2001:db8:1:2:3:4:5:6", "2001:db8:1:2::"}, {"fe80::1%eth0", "fe80::"},
	} {
		if got := limits.Client(netip.MustParseAddr(test.address)).String(); got != test.want {
			t.Errorf("%s: %s, want %s", test.address, got, test.want)
		}
	}
}

// Draws of one address are limited, small ones are not, and a draw ends when its client goes away.
func TestDrawsOfOneAddress(t *testing.T) {
	var drawing atomic.Int64
	draws := newBackend(t, "", func(_ http.ResponseWriter, r *http.Request) {
		if r.URL.RawQuery == "cant=999999" {
			return
		}
		drawing.Add(1)
		defer drawing.Add(-1)
		<-r.Context().Done()
	})
	site := newBackend(t, "", nil)
	b := run(t, Config{Primary: []string{draws.address}, Default: []string{site.address}})
	eventually(t, "ready", b.ready)
	quiet := quietMedian(t, b.url("/api/randoms?cant=999999"))
	v := startVictim(t, b.url("/api/randoms?cant=999999"))
	send := func(query string) (net.Conn, *bufio.Reader) {
		c := dialFrom(t, attacker, b.address)
		fmt.Fprintf(c, "GET /API/Randoms/%s HTTP/1.1\r\nHost: localhost\r\n\r\n", query)
		return c, bufio.NewReader(c)
	}
	limit := limits.Default().Draws
	for range 3 { // abandoned draws do not count
		var open []net.Conn
		for i := range limit {
			c, _ := send([]string{"?cant=1000000000", "", "?cant=1&cant=2", "?CANT=5"}[i%4])
			open = append(open, c)
		}
		eventually(t, "all draw", func() bool { return drawing.Load() == int64(limit) })
		_, in := send("?cant=1000000")
		if res := readAnswer(t, in); res.StatusCode != http.StatusTooManyRequests || res.Header.Get("Retry-After") != "2" {
			t.Errorf("one more: %d, Retry-After %q", res.StatusCode, res.Header.Get("Retry-After"))
		}
		if _, in = send("?cant=999999"); readAnswer(t, in).StatusCode != http.StatusOK {
			t.Error("a small draw is limited")
		}
		for _, c := range open {
			c.Close()
		}
		eventually(t, "all draws ended", func() bool {
			b.clients.mu.Lock()
			defer b.clients.mu.Unlock()
			one := b.clients.byAddress[netip.MustParseAddr(attacker)]
			return drawing.Load() == 0 && (one == nil || one.draws == 0)
		})
	}
	v.check(quiet)
	if n := failures(b.Balancer); n != 0 {
		t.Errorf("%d failures are counted", n)
	}
}

func TestFormsOfOneAddress(t *testing.T) {
	site := newBackend(t, "", nil)
	b := run(t, Config{Primary: []string{site.address}, Default: []string{site.address}})
	eventually(t, "ready", b.ready)
	v := startVictim(t, b.url("/login"))
	c := dialFrom(t, attacker, b.address)
	in := bufio.NewReader(c)
	send := func(method, path string) *http.Response {
		fmt.Fprintf(c, "%s %s HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\n\r\n", method, path)
		return readAnswer(t, in)
	}
	paths := []string{"/login", "/LOGIN/", "/signup", "/Register", "//login"}
	passed := 0
	for i := range 60 {
		res := send("POST", paths[i%len(paths)])
		switch {
		case res.StatusCode == http.StatusOK:
			passed++
		case res.StatusCode != http.StatusTooManyRequests || res.Header.Get("Retry-After") != "2":
			t.Errorf("%d, Retry-After %q", res.StatusCode, res.Header.Get("Retry-After"))
		}
	}
	if passed < 21 || passed > 25 { // one more in every 2 s
		t.Errorf("%d of 60 passed, want 21", passed)
	}
	for _, other := range [][2]string{{"GET", "/login"}, {"POST", "/logout"}, {"POST", "/login/x"}} {
		if res := send(other[0], other[1]); res.StatusCode != http.StatusOK {
			t.Errorf("%v: %d", other, res.StatusCode)
		}
	}
	res, err := http.Post(b.url("/login"), "text/plain", strings.NewReader("b")) // from another address
	if err != nil || res.StatusCode != http.StatusOK {
		t.Errorf("another address: %v, error %v", res, err)
	}
	v.median()
}

// The limiter keeps the rate in time, and forgets who could send a whole burst again.
func TestFormLimiter(t *testing.T) {
	f := newFormLimiter(30)
	start := time.Now()
	address := func(i int) netip.Addr { return netip.AddrFrom4([4]byte{10, byte(i >> 16), byte(i >> 8), byte(i)}) }
	allowed := 0
	for i := range 600 { // ten minutes, one a second
		if ok, _ := f.allow(address(0), start.Add(time.Duration(i)*time.Second)); ok {
			allowed++
		}
	}
	if allowed < 315 || allowed > 325 {
		t.Errorf("%d in ten minutes, want 30 a minute and the burst", allowed)
	}
	ok, first := f.allow(address(1), start)
	for range 40 {
		if ok {
			ok, first = f.allow(address(1), start)
		}
	}
	if _, again := f.allow(address(1), start); ok || !first || again {
		t.Error("not exactly the first rejection in a row is reported")
	}
	for i := range 3 * maxFormClients {
		f.allow(address(i), start.Add(time.Hour))
	}
	if n := len(f.recent) + len(f.previous); n > 2*maxFormClients {
		t.Errorf("%d addresses are kept", n)
	}
	f.allow(address(0), start.Add(2*time.Hour))
	f.allow(address(0), start.Add(3*time.Hour))
	if n := len(f.recent) + len(f.previous); n > 2 {
		t.Errorf("%d idle addresses are kept", n)
	}
}

// Idle connections make room for others when there is none left, the oldest first.
func TestIdleConnectionsMakeRoom(t *testing.T) {
	site := newBackend(t, "", nil)
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var log bytes.Buffer
	var mu sync.Mutex
	upstreams := []string{site.address}
	b, err := New(Config{Primary: upstreams, Default: upstreams, DrainTimeout: time.Second,
		Logger: slog.New(slog.NewTextHandler(lockedWriter{&mu, &log}, nil))})
	if err != nil {
		t.Fatal(err)
	}
	b.maxConns = 8
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- b.Serve(ctx, ln) }()
	address := ln.Addr().String()
	for i := range 20 {
		c := dialFrom(t, attacker, address)
		if i%2 == 0 {
			fmt.Fprint(c, "GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
			if res, err := http.ReadResponse(bufio.NewReader(c), nil); err != nil || res.StatusCode != http.StatusOK {
				t.Fatalf("connection %d: %v, error %v", i, res, err)
			}
		}
	}
	if n := b.conns.Load(); n > 8 {
		t.Errorf("%d connections", n)
	}
	// Without an idle connection new ones wait.
	for range 8 {
		fmt.Fprint(dialFrom(t, attacker, address), "GET / HTTP/1.1\r\nHost: localhost\r\nX-Half: ")
		time.Sleep(20 * time.Millisecond)
	}
	waiting := dialFrom(t, "127.0.0.1", address)
	fmt.Fprint(waiting, "GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
	_ = waiting.SetReadDeadline(time.Now().Add(100 * time.Millisecond))
	if _, err := waiting.Read(make([]byte, 1)); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("it did not wait: %v", err)
	}
	stop()
	<-ended
	mu.Lock()
	defer mu.Unlock()
	if n := strings.Count(log.String(), "descriptors are used up"); n != 1 {
		t.Errorf("the log says it %d times:\n%s", n, log.String())
	}
}

// lockedWriter lets a test read what goroutines write.
type lockedWriter struct {
	mu *sync.Mutex
	w  io.Writer
}

func (l lockedWriter) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.w.Write(p)
}

// runStarved is a balancer in a process that may open 64 files. It prints its address, and logs to standard error.
func runStarved(upstream string) {
	limit := syscall.Rlimit{Cur: 64, Max: 64}
	if err := syscall.Setrlimit(syscall.RLIMIT_NOFILE, &limit); err != nil {
		panic(err)
	}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		panic(err)
	}
	b, err := New(Config{Primary: []string{upstream}, Default: []string{upstream}, Logger: slog.New(slog.NewJSONHandler(os.Stderr, nil))})
	if err != nil {
		panic(err)
	}
	fmt.Println(ln.Addr())
	panic(b.Serve(context.Background(), ln))
}

// With `ulimit -n 64` and a hundred idle connections, all clients are served, the upstream stays up, and the log says it
// once. Without the limit of one address a flood from it reaches the descriptors.
func TestDescriptorsUsedUp(t *testing.T) {
	site := newBackend(t, "", nil)
	starved := exec.Command(os.Args[0], starvedArgument, site.address)
	var log bytes.Buffer
	starved.Stderr = &log
	out, err := starved.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := starved.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() {
		_ = starved.Process.Kill()
		_ = starved.Wait()
		if n := strings.Count(log.String(), "descriptors are used up"); n != 1 || t.Failed() {
			t.Errorf("the log says it %d times:\n%s", n, log.String())
		}
		if strings.Contains(log.String(), "upstream is down") {
			t.Errorf("the upstream was taken for down:\n%s", log.String())
		}
	}()
	address, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		t.Fatal(err)
	}
	address = strings.TrimSpace(address)
	for range 100 {
		dialFrom(t, attacker, address)
	}
	var clients sync.WaitGroup
	for range 30 { // more at a time than there are descriptors for
		clients.Go(func() {
			for range 10 {
				if status, text := get(t, "http://"+address+"/info"); status != http.StatusOK {
					t.Errorf("%d %s", status, text)
				}
			}
		})
	}
	clients.Wait()
}

// starvedListener fails to accept as often as left says.
type starvedListener struct {
	net.Listener
	left int
}

func (l *starvedListener) Accept() (net.Conn, error) {
	if l.left--; l.left >= 0 {
		return nil, &net.OpError{Op: "accept", Err: os.NewSyscallError("accept4", []error{syscall.EMFILE, syscall.ECONNABORTED}[l.left%2])}
	}
	return l.Listener.Accept()
}

// Neither the listener nor an upstream is given up for want of a descriptor.
func TestLackOfDescriptorsPasses(t *testing.T) {
	site := newBackend(t, "", nil)
	b, url := unchecked(t, 10*time.Second, site.address)
	var attempts atomic.Int64
	lacking := func(context.Context, string, string) (net.Conn, error) {
		if attempts.Add(1)%4 != 0 {
			return nil, &net.OpError{Op: "dial", Err: os.NewSyscallError("socket", syscall.EMFILE)}
		}
		return net.Dial("tcp", site.address)
	}
	b.noKeepAlive.DialContext = lacking
	for _, u := range b.upstreams() {
		u.pooled.DialContext = lacking
	}
	for _, method := range []string{http.MethodGet, http.MethodPost} {
		req, _ := http.NewRequestWithContext(t.Context(), method, url, nil)
		if status, text := roundTrip(t, req); status != http.StatusOK {
			t.Errorf("%s: %d %s", method, status, text)
		}
	}
	b.noKeepAlive.DialContext = func(context.Context, string, string) (net.Conn, error) {
		return nil, &net.OpError{Op: "dial", Err: os.NewSyscallError("socket", syscall.EMFILE)}
	}
	for _, u := range b.upstreams() {
		for range 3 * maxTimeouts {
			u.check(t.Context())
		}
		if n := u.failures.Load(); !u.up() || n != 0 {
			t.Errorf("up %v, %d failures", u.up(), n)
		}
	}

	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	dialFrom(t, "127.0.0.1", ln.Addr().String())
	conn, err := (&clientListener{&starvedListener{ln, 6}, b}).Accept()
	if err != nil {
		t.Fatal(err)
	}
	conn.Close()
}
