package edge

import (
	"bytes"
	"context"
	"crypto/sha256"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"balanza/services/limits"
)

// runDynamic starts a balancer for any program, without an upstream.
func runDynamic(t *testing.T) *running {
	t.Helper()
	l := limits.Default()
	l.Connections = 1000
	return run(t, Config{Dynamic: true, Limits: l, WaitTimeout: time.Minute})
}

// Requests that come before the first upstream wait for it, and each upstream gets the same number.
func TestDynamicUpstreamsShareRequests(t *testing.T) {
	r := runDynamic(t)
	first := make(chan int, 1)
	go func() {
		status, _ := get(t, r.url("/early"))
		first <- status
	}()
	a, b, c := newBackend(t, "", nil), newBackend(t, "", nil), newBackend(t, "", nil)
	r.Add(a.address)
	if status := <-first; status != http.StatusOK {
		t.Errorf("the early request: status %d", status)
	}
	r.Add(b.address)
	r.Add(c.address)
	before := [3]int64{a.count.Load(), b.count.Load(), c.count.Load()}
	var wg sync.WaitGroup
	for range 6 {
		wg.Go(func() {
			for range 50 {
				get(t, r.url("/"))
			}
		})
	}
	wg.Wait()
	for i, one := range []*backend{a, b, c} {
		if n := one.count.Load() - before[i]; n != 100 {
			t.Errorf("upstream %d got %d of 300 requests", i, n)
		}
	}
	if n := r.Requests(b.address); n != 100 {
		t.Errorf("Requests: %d, not 100", n)
	}
}

// What the site's balancer answers itself is passed on to a program, whatever the host name.
func TestDynamicPassesEverythingOn(t *testing.T) {
	r := runDynamic(t)
	a := newBackend(t, "", func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprintf(w, "%s %s %s %s %s", r.Method, r.RequestURI, r.Host, r.Header.Get("X-Forwarded-For"), r.Header.Get("X-Forwarded-Proto"))
	})
	r.Add(a.address)
	for _, path := range []string{"/metrics", "/healthz", "/test/random", "//a//%2f?b"} {
		conn, err := net.Dial("tcp", r.address)
		if err != nil {
			t.Fatal(err)
		}
		fmt.Fprintf(conn, "POST %s HTTP/1.1\r\nHost: api.example.com\r\nX-Forwarded-For: 192.0.2.7\r\nX-Forwarded-Proto: https\r\n"+
			"Content-Length: 0\r\nConnection: close\r\n\r\n", path)
		text, err := io.ReadAll(conn)
		conn.Close()
		if want := "POST " + path + " api.example.com 192.0.2.7, 127.0.0.1 https"; err != nil || !strings.HasSuffix(string(text), want) {
			t.Errorf("%q does not end with %q: %v", text, want, err)
		}
	}
}

// An answer without a type gets none: a browser would show a guessed page.
func TestDynamicGuessesNoContentType(t *testing.T) {
	r := runDynamic(t)
	for name, pieces := range map[string]int{"whole": 1, "in chunks": 3} {
		a := newBackend(t, "", func(w http.ResponseWriter, _ *http.Request) {
			w.Header()["Content-Type"] = nil
			for range pieces {
				fmt.Fprint(w, "<script>alert(1)</script>")
				if pieces > 1 {
					_ = http.NewResponseController(w).Flush()
				}
			}
		})
		r.Add(a.address)
		answer, err := http.Get(r.url("/upload"))
		if err != nil {
			t.Fatal(err)
		}
		answer.Body.Close()
		if kind, ok := answer.Header["Content-Type"]; ok {
			t.Errorf("%s: the answer has the type %q", name, kind)
		}
		r.Remove(t.Context(), a.address)
	}
}

// A long body arrives whole, with its length or in chunks, and two at a time do not mix.
func TestDynamicStreamsLongBodies(t *testing.T) {
	r := runDynamic(t)
	a := newBackend(t, "", func(w http.ResponseWriter, r *http.Request) {
		hash := sha256.New()
		n, err := io.Copy(hash, r.Body)
		fmt.Fprintf(w, "%d %x %v %d", n, hash.Sum(nil), err, r.ContentLength)
	})
	r.Add(a.address)
	for _, size := range []int{1, maxHeldBody - 1, maxHeldBody, maxHeldBody + 1, 5 << 20} {
		content := bytes.Repeat([]byte("balanza/"), size/8+1)[:size]
		for _, chunked := range []bool{false, true} {
			var body io.Reader = bytes.NewReader(content)
			length := size
			if chunked {
				body = struct{ io.Reader }{body}
				if size >= maxHeldBody {
					length = -1
				}
			}
			req, err := http.NewRequestWithContext(t.Context(), http.MethodPut, r.url("/upload"), body)
			if err != nil {
				t.Fatal(err)
			}
			want := fmt.Sprintf("%d %x <nil> %d", size, sha256.Sum256(content), length)
			if _, text := roundTrip(t, req); text != want {
				t.Errorf("%d bytes, chunked %v: %s, not %s", size, chunked, text, want)
			}
		}
	}
}

// A client that breaks off leaves an upstream with an error, not with a part that looks whole.
func TestDynamicClientBreaksOffUpload(t *testing.T) {
	r := runDynamic(t)
	results := make(chan error, 2)
	a := newBackend(t, "", func(_ http.ResponseWriter, r *http.Request) {
		_, err := io.Copy(io.Discard, r.Body)
		results <- err
	})
	r.Add(a.address)
	for _, header := range []string{"Content-Length: 1000000\r\n\r\n", "Transfer-Encoding: chunked\r\n\r\n20000\r\n"} {
		conn, err := net.Dial("tcp", r.address)
		if err != nil {
			t.Fatal(err)
		}
		fmt.Fprintf(conn, "POST / HTTP/1.1\r\nHost: localhost\r\n%s%s", header, strings.Repeat("x", 100_000))
		eventually(t, "the upstream has the request", func() bool { return a.count.Load() > 0 })
		conn.Close()
		if err := <-results; err == nil {
			t.Errorf("%q: the upstream took a part for the whole", header)
		}
		a.count.Store(0)
	}
}

// An upstream that answers before it has read the body is heard.
func TestDynamicEarlyAnswerToUpload(t *testing.T) {
	r := runDynamic(t)
	a := newBackend(t, "", func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusTeapot) })
	r.Add(a.address)
	conn, err := net.Dial("tcp", r.address)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	fmt.Fprintf(conn, "POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 10000000\r\n\r\n%s", strings.Repeat("x", 100_000))
	answer := make([]byte, 12)
	_ = conn.SetReadDeadline(time.Now().Add(20 * time.Second))
	if _, err := io.ReadFull(conn, answer); err != nil || string(answer) != "HTTP/1.1 418" {
		t.Errorf("%q, %v", answer, err)
	}
}

// Remove waits for requests in flight, but not for streams of events, and the upstream gets no request afterwards.
func TestDynamicRemove(t *testing.T) {
	r := runDynamic(t)
	release := make(chan struct{})
	a := newBackend(t, "", func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/events" {
			w.Header().Set("Content-Type", "text/event-stream")
			w.WriteHeader(http.StatusOK)
			_ = http.NewResponseController(w).Flush()
		}
		<-release
	})
	b := newBackend(t, "", nil)
	r.Add(a.address)
	events, err := http.Get(r.url("/events"))
	if err != nil {
		t.Fatal(err)
	}
	defer events.Body.Close()
	answers := make(chan int, 1)
	go func() {
		status, _ := get(t, r.url("/slow"))
		answers <- status
	}()
	eventually(t, "the upstream has both requests", func() bool { return a.count.Load() == 2 })
	r.Add(b.address)
	removed := make(chan struct{})
	go func() {
		defer close(removed)
		r.Remove(context.Background(), a.address)
	}()
	eventually(t, "the upstream is off the list", func() bool { return len(r.Status()) == 1 })
	for range 20 {
		get(t, r.url("/"))
	}
	select {
	case <-removed:
		t.Error("Remove did not wait for the request in flight")
	default:
	}
	close(release)
	<-removed
	if status := <-answers; status != http.StatusOK {
		t.Errorf("the request in flight: status %d", status)
	}
	if n := a.count.Load(); n != 2 {
		t.Errorf("the removed upstream got %d requests", n-2)
	}
}

// Upstreams come and go under load, and no request fails.
func TestDynamicChangesUnderLoad(t *testing.T) {
	r := runDynamic(t)
	r.Add(newBackend(t, "", nil).address)
	stop := make(chan struct{})
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				res, err := http.Post(r.url("/"), "text/plain", strings.NewReader("x"))
				if err != nil {
					t.Error(err)
					return
				}
				_, _ = io.Copy(io.Discard, res.Body)
				res.Body.Close()
				if res.StatusCode != http.StatusOK {
					t.Errorf("status %d", res.StatusCode)
				}
			}
		})
	}
	for range 40 {
		old := r.Status()[0].Address
		next := newBackend(t, "", nil)
		r.Add(next.address)
		r.Remove(context.Background(), old)
		for _, u := range r.Status() {
			if u.Address == old {
				t.Errorf("%s is still there", old)
			}
		}
	}
	close(stop)
	wg.Wait()
}
