package web

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"balanza/services/limits"
)

// rawAnswer sends bytes on a connection of its own and returns all that the server answers until it closes or, with
// only, the first answer. An answer that a reset destroys fails the test.
func rawAnswer(t *testing.T, v *runningSite, request string) (*http.Response, string) {
	t.Helper()
	conn, err := net.Dial("tcp", strings.TrimPrefix(v.url, "http://"))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(20 * time.Second))
	sent := make(chan error, 1)
	go func() {
		_, err := io.WriteString(conn, request)
		sent <- err
	}()
	answer, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		t.Fatalf("%.60q (%d bytes): %v", request, len(request), err)
	}
	body, err := io.ReadAll(answer.Body)
	if err != nil {
		t.Fatalf("%.60q: %v", request, err)
	}
	if err := <-sent; err != nil {
		t.Errorf("%.60q (%d bytes) was not taken: %v", request, len(request), err)
	}
	return answer, string(body)
}

// writeCounter is a connection that counts how often the server writes to it.
type writeCounter struct {
	sentConn
	writes int
}

func (c *writeCounter) Write(p []byte) (int, error) {
	c.writes++
	return c.sentConn.Write(p)
}

// An answer that came in two pieces would be cut off where its process is killed between them, and no proxy could mend it.
func TestAnswersAreWrittenAtOnce(t *testing.T) {
	t.Parallel()
	v := start(t)
	for _, path := range []string{"/api/randoms?cant=1000000", "/randoms", "/info", "/login", "/productos-test", "/api/productos"} {
		c := &writeCounter{sentConn: sentConn{input: strings.NewReader("GET " + path + " HTTP/1.1\r\nHost: localhost\r\n\r\n")}}
		_ = v.app.Server().ServeConn(c) // the end of the input is an error
		if answer := c.output.String(); c.writes != 1 || !strings.HasPrefix(answer, "HTTP/1.1 200") {
			t.Errorf("%s: %d writes of %d bytes, %.20q", path, c.writes, len(answer), answer)
		}
	}
}

// victim asks for a page until stop is called, which fails the test if one request failed.
func (v *runningSite) victim(t *testing.T, path string) (stop func()) {
	t.Helper()
	var ended atomic.Bool
	done := make(chan int)
	go func() {
		n := 0
		client := &http.Client{Timeout: 20 * time.Second, Transport: &http.Transport{}}
		defer client.CloseIdleConnections()
		for ; !ended.Load(); n++ {
			a, err := client.Get(v.url + path)
			if err == nil {
				_, err = io.Copy(io.Discard, a.Body)
				a.Body.Close()
			}
			if err != nil || a.StatusCode != http.StatusOK {
				t.Errorf("the victim's request %d: %v %v", n, a, err)
			}
			time.Sleep(5 * time.Millisecond)
		}
		done <- n
	}()
	return func() {
		t.Helper()
		ended.Store(true)
		if n := <-done; n == 0 {
			t.Error("the victim asked for nothing")
		}
	}
}

// sized is a GET whose request line and header have that many bytes.
func sized(size int, fields ...string) string {
	start := "GET /info HTTP/1.1\r\nHost: localhost\r\n" + strings.Join(fields, "")
	pad := "X-Pad: "
	return start + pad + strings.Repeat("a", size-len(start)-len(pad)-4) + "\r\n\r\n"
}

// Requests up to the limits are taken, and larger ones of any size get the right status and their answer, in the client's
// form and language, while others are served.
func TestRequestSizes(t *testing.T) {
	l := limits.Default()
	l.Body, l.Header, l.URL = 20_000, 5_000, 3_000
	p := startProcess(t, t.TempDir(), Config{Limits: l})
	proxied := startProcess(t, t.TempDir(), Config{Limits: l, TrustedProxies: []string{"127.0.0.1"}, EdgeToken: "secret"})
	token := startProcess(t, t.TempDir(), Config{Limits: l, EdgeToken: "secret"})
	stop := p.victim(t, "/info")
	defer stop()
	url := func(size int) string {
		return "GET /info?x=" + strings.Repeat("a", size-len("/info?x=")) + " HTTP/1.1\r\nHost: localhost\r\n\r\n"
	}
	json := func(size int) string {
		const start, end = `{"email":"a@b.c","password":"x"`, `}`
		return start + strings.Repeat(" ", size-len(start)-len(end)) + end
	}
	const post = "POST /login HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nAccept: application/json\r\n"
	body := func(size int) string { return fmt.Sprintf(post+"Content-Length: %d\r\n\r\n%s", size, json(size)) }
	chunked := func(size int) string {
		var b strings.Builder
		b.WriteString(post + "Transfer-Encoding: chunked\r\n\r\n")
		for rest := json(size); rest != ""; {
			n := min(len(rest), 4096)
			fmt.Fprintf(&b, "%x\r\n%s\r\n", n, rest[:n])
			rest = rest[n:]
		}
		return b.String() + "0\r\n\r\n"
	}
	for _, test := range []struct {
		name          string
		request       func(int) string
		limit         int
		accepted, not int
	}{
		{"URL", url, l.URL, http.StatusOK, http.StatusRequestURITooLong},
		{"header", func(n int) string { return sized(n) }, l.Header, http.StatusOK, http.StatusRequestHeaderFieldsTooLarge},
		{"body", body, l.Body, http.StatusUnauthorized, http.StatusRequestEntityTooLarge},
		{"chunked body", chunked, l.Body, http.StatusUnauthorized, http.StatusRequestEntityTooLarge},
	} {
		for _, size := range []int{
			200, test.limit - 1, test.limit, test.limit + 1, test.limit + forwardingSpace, test.limit + forwardingSpace + 1, 2 * test.limit,
			10 * test.limit, 3 << 20,
		} {
			want := test.accepted
			if size > test.limit {
				want = test.not
			}
			answer, text := rawAnswer(t, p.runningSite, test.request(size))
			// A URL of the whole buffer is known only as such; one that fits, with the rest too large, is either.
			if answer.StatusCode != want {
				t.Errorf("%s of %d bytes: %s", test.name, size, answer.Status)
			}
			if answer.Header.Get("X-Balanza-Pid") == "" || answer.Header.Get("X-Request-Id") == "" {
				t.Errorf("%s of %d bytes: %v", test.name, size, answer.Header)
			}
			if size > test.limit && (!answer.Close || !strings.Contains(text, fmt.Sprint(test.limit))) {
				t.Errorf("%s of %d bytes: close %v, %s", test.name, size, answer.Close, text)
			}
		}
	}
	// The answer says what to do in the client's form and language, which come before the cookies.
	for _, size := range []int{l.Header + 1, l.Header + forwardingSpace + 1, 2 * l.Header, 64 << 10, 3 << 20} {
		for _, form := range []struct{ fields, start, words string }{
			{"Accept: text/html\r\nAccept-Language: en\r\n", "<!doctype html>\n<html lang=\"en\">", "cookies of all projects add up: open 127.0.0.1"},
			{"Accept: text/html,*/*;q=0.8\r\nAccept-Language: es-AR,en;q=0.5\r\n", "<!doctype html>\n<html lang=\"es\">", "abra 127.0.0.1"},
			{"Accept: application/json\r\nAccept-Language: en\r\n", `{"error":-3,`, "delete those of this site"},
			{"", `{"error":-3,`, "borre las de este sitio"},
		} {
			_, text := rawAnswer(t, p.runningSite, sized(size, form.fields))
			if !strings.HasPrefix(text, form.start) || !strings.Contains(text, form.words) {
				t.Errorf("a header of %d bytes with %q: %s", size, form.fields, text)
			}
		}
	}

	// A proxy's fields are not the client's.
	secret := headerEdgeToken + ": secret\r\n"
	for _, test := range []struct {
		to      *process
		request string
		want    int
	}{
		{proxied, sized(l.Header + forwardingSpace), http.StatusOK},
		{proxied, sized(l.Header + forwardingSpace + 1), http.StatusRequestHeaderFieldsTooLarge},
		{token, sized(l.Header+forwardingSpace, secret), http.StatusOK},
		{token, sized(l.Header + forwardingSpace), http.StatusRequestHeaderFieldsTooLarge},
		{token, sized(l.Header + 1), http.StatusRequestHeaderFieldsTooLarge},
		{token, sized(l.Header), http.StatusOK},
	} {
		if answer, text := rawAnswer(t, test.to.runningSite, test.request); answer.StatusCode != test.want {
			t.Errorf("%d bytes: %s %s", len(test.request), answer.Status, text)
		}
	}
}

// A connection whose client takes nothing of its answers ends after ClientTimeout; one that takes them slowly stays, however
// long that lasts.
func TestSlowReaders(t *testing.T) {
	l := limits.Default()
	l.ClientTimeout = time.Second
	p := startProcess(t, t.TempDir(), Config{Limits: l})
	stop := p.victim(t, "/info")
	defer stop()
	large := "GET /assets/balanza.css HTTP/1.1\r\nHost: localhost\r\n\r\n"
	_, body := rawAnswer(t, p.runningSite, strings.Replace(large, "\r\n\r\n", "\r\nConnection: close\r\n\r\n", 1))
	count := 1 + (24<<20)/len(body) // more than the kernel buffers
	dial := func() *net.TCPConn {
		conn, err := net.Dial("tcp", strings.TrimPrefix(p.url, "http://"))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { conn.Close() })
		go func() { _, _ = io.WriteString(conn, strings.Repeat(large, count)) }() // it blocks while the server does
		return conn.(*net.TCPConn)
	}
	var readers []*net.TCPConn
	for range 8 {
		readers = append(readers, dial())
	}
	slow := dial()
	read, ended := make([]byte, 256<<10), time.Now().Add(4*time.Second)
	for total := 0; time.Now().Before(ended); time.Sleep(100 * time.Millisecond) {
		_ = slow.SetReadDeadline(time.Now().Add(5 * time.Second))
		n, err := slow.Read(read)
		if err != nil {
			t.Fatalf("after %d bytes: %v", total, err)
		}
		total += n
	}
	if n := p.conns.count(); n > 2 { // the slow reader's and the victim's
		t.Errorf("%d connections are open", n)
	}
	for _, c := range readers {
		_ = c.SetReadDeadline(time.Now().Add(5 * time.Second))
		n, _ := io.Copy(io.Discard, c)
		if n >= int64(count*len(body)) {
			t.Errorf("a client that took nothing got all of %d bytes", n)
		}
	}
}

// A client that has sent more requests behind the one whose answer says Connection: close still gets that answer.
func TestPipelinedBehindTheLastAnswer(t *testing.T) {
	v := serve(t, siteWithoutStore(t, Config{DrainDelay: 10 * time.Second, DrainIdle: 10 * time.Second}), listen(t))
	get := "GET /info?format=json HTTP/1.1\r\nHost: localhost\r\n\r\n"
	var conns []net.Conn
	for range 20 {
		conn, err := net.Dial("tcp", strings.TrimPrefix(v.url, "http://"))
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		raw(t, conn, get)
		conns = append(conns, conn)
	}
	v.drain()
	for !v.draining.Load() {
		time.Sleep(time.Millisecond)
	}
	for _, conn := range conns {
		if _, err := io.WriteString(conn, strings.Repeat(get, 500)); err != nil {
			t.Fatal(err)
		}
	}
	time.Sleep(50 * time.Millisecond) // a reset would overtake the answer
	for _, conn := range conns {
		_ = conn.SetReadDeadline(time.Now().Add(5 * time.Second))
		all, err := io.ReadAll(conn)
		if err != nil || bytes.Count(all, []byte("HTTP/1.1 200 OK")) != 1 || !bytes.Contains(all, []byte("Connection: close")) {
			t.Fatalf("%v: %.300s", err, all)
		}
	}
	v.stop()
}
