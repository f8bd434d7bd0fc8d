package web

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"balanza/services/eventlog"
	"balanza/services/processes"
	"balanza/services/store"
)

// listen returns a listener on a free port of this machine.
func listen(t *testing.T) *net.TCPListener {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ln.Close() })
	return ln.(*net.TCPListener)
}

// inherit returns the same socket by another descriptor, as a child process has it.
func inherit(t *testing.T, ln *net.TCPListener) net.Listener {
	t.Helper()
	file, err := ln.File()
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	inherited, err := net.FileListener(file)
	if err != nil {
		t.Fatal(err)
	}
	return inherited
}

func testProcess() Process {
	return Process{Mode: "FORK", Server: "test:1", Started: time.Now()}
}

// downStore is a database that cannot be reached.
type downStore struct{ store.Store }

func (downStore) Last(context.Context) (int64, error) { return 0, store.ErrUnavailable }

func (downStore) Session(context.Context, string, time.Time) (store.Session, error) {
	return store.Session{}, store.ErrUnavailable
}

func (downStore) User(context.Context, string) (store.User, error) {
	return store.User{}, store.ErrUnavailable
}

func (downStore) Now(context.Context) (time.Time, error) { return time.Time{}, store.ErrUnavailable }

func (downStore) Products(context.Context, string, int) ([]store.Product, error) {
	return nil, store.ErrUnavailable
}

func (downStore) Count(context.Context, string, int, time.Time) (int, error) {
	return 0, store.ErrUnavailable
}

// siteWithoutStore returns a site whose store is down.
func siteWithoutStore(t testing.TB, config Config) *Site {
	t.Helper()
	return siteOn(t, downStore{}, config)
}

// siteOn returns a site on a store.
func siteOn(t testing.TB, s store.Store, config Config) *Site {
	t.Helper()
	config.Store = s
	config.Logger = slog.New(slog.DiscardHandler)
	config.Clock = store.NewClock(config.Store, config.Logger)
	config.Log = eventlog.New(config.Store, config.Clock, func() int { return 1 })
	config.Process, config.Processes = testProcess(), processes.New(config.Store, config.Clock, store.Process{})
	site, err := New(config)
	if err != nil {
		t.Fatal(err)
	}
	return site
}

// runningSite is a site whose Serve is running.
type runningSite struct {
	*Site
	url      string
	drain    context.CancelFunc
	finished chan error
}

func serve(t *testing.T, s *Site, ln net.Listener) *runningSite {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	v := &runningSite{Site: s, url: "http://" + ln.Addr().String(), drain: cancel, finished: make(chan error, 1)}
	go func() { v.finished <- s.Serve(ctx, ln) }()
	t.Cleanup(func() { cancel(); s.stop(); v.end(t) })
	return v
}

// end waits until Serve has returned.
func (v *runningSite) end(t *testing.T) {
	t.Helper()
	select {
	case err := <-v.finished:
		if err != nil {
			t.Errorf("Serve: %v", err)
		}
		v.finished <- nil
	case <-time.After(20 * time.Second):
		t.Fatal("Serve does not return")
	}
}

// get returns the status, the headers and the body of an answer.
func get(t *testing.T, url string, headers ...string) (*http.Response, string) {
	t.Helper()
	r, _ := http.NewRequest(http.MethodGet, url, nil)
	for i := 0; i < len(headers); i += 2 {
		r.Header.Set(headers[i], headers[i+1])
	}
	return send(t, http.DefaultClient, r)
}

func send(t *testing.T, client *http.Client, r *http.Request) (*http.Response, string) {
	t.Helper()
	answer, err := client.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer answer.Body.Close()
	body, err := io.ReadAll(answer.Body)
	if err != nil {
		t.Fatal(err)
	}
	return answer, string(body)
}

// No request on a kept connection fails while servers on one socket replace each other.
func TestDrainLosesNothing(t *testing.T) {
	master := listen(t)
	config := Config{DrainIdle: 300 * time.Millisecond}
	current := serve(t, siteWithoutStore(t, config), inherit(t, master))

	url := current.url + "/readyz"

	var answered atomic.Int64
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var clients sync.WaitGroup
	for _, method := range []string{http.MethodGet, http.MethodPost, http.MethodGet, http.MethodPost} {
		clients.Go(func() {
			// One connection each, so that all requests use kept connections; GetBody is unset, so that the client
			// cannot hide a failed POST by sending it again.
			client := &http.Client{Transport: &http.Transport{MaxConnsPerHost: 1}}
			defer client.CloseIdleConnections()
			for ctx.Err() == nil {
				r, _ := http.NewRequest(method, url, io.NopCloser(strings.NewReader("a=b")))
				if method == http.MethodGet {
					r.Body = nil
				}
				a, err := client.Do(r)
				if err != nil {
					t.Errorf("%s: %v", method, err)
					return
				}
				_, _ = io.Copy(io.Discard, a.Body)
				a.Body.Close()
				answered.Add(1)
				time.Sleep(time.Millisecond)
			}
		})
	}
	for range 5 {
		before := answered.Load()
		for answered.Load() < before+50 && !t.Failed() {
			time.Sleep(time.Millisecond)
		}
		old := current
		current = serve(t, siteWithoutStore(t, config), inherit(t, master))
		old.drain()
		old.end(t)
	}
	cancel()
	clients.Wait()
}

// A drain fails readiness first, then closes the listener, then kept connections, and at last cancels requests.
func TestDrain(t *testing.T) {
	const ms = time.Millisecond
	site := siteWithoutStore(t, Config{DrainDelay: 200 * ms, DrainIdle: 1500 * ms, DrainTimeout: 300 * ms})
	v := serve(t, site, listen(t))

	kept, err := net.Dial("tcp", strings.TrimPrefix(v.url, "http://"))
	if err != nil {
		t.Fatal(err)
	}
	defer kept.Close()
	if a, _ := get(t, v.url+"/readyz"); a.StatusCode != http.StatusOK || a.Close {
		t.Fatalf("before the drain: %s, close %v", a.Status, a.Close)
	}
	if answer := raw(t, kept, "GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n"); strings.Contains(answer, "Connection: close") {
		t.Fatalf("before the drain: %s", answer)
	}
	long := make(chan int, 1)
	go func() {
		client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
		r, _ := http.NewRequest(http.MethodGet, v.url+"/api/randoms?cant=1000000000", nil)
		a, err := client.Do(r)
		if err != nil {
			t.Error(err)
			long <- 0
			return
		}
		a.Body.Close()
		long <- a.StatusCode
	}()
	for site.conns.count() < 3 { // the kept one, the client's and the long request's
		time.Sleep(time.Millisecond)
	}

	v.drain()
	for !site.draining.Load() {
		time.Sleep(time.Millisecond)
	}
	if a, _ := get(t, v.url+"/readyz"); a.StatusCode != http.StatusServiceUnavailable || !a.Close {
		t.Errorf("readiness while the listener is open: %s, close %v", a.Status, a.Close)
	}
	for { // until the listener is closed
		c, err := net.Dial("tcp", strings.TrimPrefix(v.url, "http://"))
		if err != nil {
			break
		}
		c.Close()
		time.Sleep(5 * time.Millisecond)
	}
	if answer := raw(t, kept, "GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n"); !strings.Contains(answer, "Connection: close") {
		t.Errorf("a kept connection's last answer: %s", answer)
	}
	v.end(t)
	if status := <-long; status != http.StatusOK && status != http.StatusServiceUnavailable {
		t.Errorf("the long request got %d, want its answer or 503", status)
	}
}

// raw sends bytes and returns the first bytes of the answer.
func raw(t *testing.T, c net.Conn, request string) string {
	t.Helper()
	if _, err := io.WriteString(c, request); err != nil {
		t.Fatal(err)
	}
	_ = c.SetReadDeadline(time.Now().Add(5 * time.Second))
	buffer := make([]byte, 64<<10)
	n, err := c.Read(buffer)
	if err != nil {
		t.Fatal(err)
	}
	return string(buffer[:n])
}

// A stop ends a drain at once, however long its phases are.
func TestStop(t *testing.T) {
	site := siteWithoutStore(t, Config{DrainDelay: time.Hour, DrainIdle: time.Hour, DrainTimeout: time.Hour})
	v := serve(t, site, listen(t))
	if err := site.Healthy(); err != nil {
		t.Error(err)
	}
	get(t, v.url+"/healthz")
	v.drain()
	site.stop()
	v.end(t)
}

// A listener that cannot accept ends Serve with an error.
func TestListenerFails(t *testing.T) {
	err := siteWithoutStore(t, Config{}).Serve(t.Context(), brokenListener{listen(t)})
	if !errors.Is(err, errBroken) {
		t.Errorf("got %v", err)
	}
}

var errBroken = errors.New("broken")

type brokenListener struct{ net.Listener }

func (brokenListener) Accept() (net.Conn, error) { return nil, errBroken }
