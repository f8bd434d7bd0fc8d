package edge

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

const (
	// childArgument makes the test binary serve on the listener that it inherits as descriptor 3.
	childArgument = "child-server"
	// starvedArgument and an upstream's address make it a balancer that may open few files.
	starvedArgument = "starved-balancer"
)

func TestMain(m *testing.M) {
	if len(os.Args) == 2 && os.Args[1] == childArgument {
		runChild()
		return
	}
	if len(os.Args) == 3 && os.Args[1] == starvedArgument {
		runStarved(os.Args[2])
	}
	os.Exit(m.Run())
}

// backend is an upstream whose readiness the test sets, and which counts the requests that reach it.
type backend struct {
	*httptest.Server
	address  string
	count    atomic.Int64
	notReady atomic.Bool
}

// newBackend starts a server on address, or on a free port if that is empty. Without a handler it answers with its
// address and the path that it was asked for.
func newBackend(t *testing.T, address string, handler http.HandlerFunc) *backend {
	t.Helper()
	s := &backend{}
	s.Server = httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/readyz" {
			if s.notReady.Load() {
				w.WriteHeader(http.StatusServiceUnavailable)
			}
			return
		}
		s.count.Add(1)
		if handler != nil {
			handler(w, r)
			return
		}
		fmt.Fprintf(w, "%s %s", s.address, r.RequestURI)
	}))
	s.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, slog.LevelError)
	if address != "" {
		ln, err := net.Listen("tcp", address)
		if err != nil {
			t.Fatal(err)
		}
		s.Listener.Close()
		s.Listener = ln
	}
	s.address = s.Listener.Addr().String()
	s.Start()
	t.Cleanup(s.Close)
	return s
}

// running is a Balancer that serves.
type running struct {
	*Balancer
	address string
	stop    context.CancelFunc
	ended   chan error
}

// run starts a Balancer on a free port and stops it with the test.
func run(t *testing.T, c Config) *running {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	r := runOn(t, c, ln)
	t.Cleanup(func() {
		r.stop()
		<-r.ended
	})
	return r
}

func runOn(t *testing.T, c Config, ln net.Listener) *running {
	t.Helper()
	c.Logger = slog.New(slog.DiscardHandler)
	if c.DrainTimeout == 0 {
		c.DrainTimeout = 10 * time.Second
	}
	b, err := New(c)
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	r := &running{b, ln.Addr().String(), stop, make(chan error, 1)}
	go func() {
		r.ended <- b.Serve(ctx, ln)
		close(r.ended)
	}()
	return r
}

// ready tells whether the balancer accepts connections and each kind of request has an upstream that is up.
func (r *running) ready() bool {
	isUp := func(p *pool) bool {
		return slices.ContainsFunc(p.tiers, func(t *tier) bool { return slices.ContainsFunc(t.all(), (*upstream).up) })
	}
	return r.draining.Err() == nil && isUp(r.draws) && isUp(r.site)
}

func (r *running) url(path string) string { return "http://" + r.address + path }

// eventually waits until other goroutines have brought a state about.
func eventually(t *testing.T, state string, reached func() bool) {
	t.Helper()
	for deadline := time.Now().Add(20 * time.Second); !reached(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("never reached: " + state)
		}
	}
}

// get sends a request on a new connection and returns status and body.
func get(t *testing.T, url string) (int, string) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Close = true
	return roundTrip(t, req)
}

func roundTrip(t *testing.T, req *http.Request) (int, string) {
	t.Helper()
	res, err := http.DefaultTransport.RoundTrip(req)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	text, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	return res.StatusCode, string(text)
}

func TestNewNamesTheWrongAddress(t *testing.T) {
	good := []string{"localhost:8080"}
	for _, test := range []struct {
		config Config
		want   string
	}{
		{Config{Primary: []string{"localhost"}, Default: good}, `primary server "localhost"`},
		{Config{Primary: []string{":8080"}, Default: good}, `primary server ":8080"`},
		{Config{Primary: good, Backup: []string{"x:0"}, Default: good}, `backup server "x:0"`},
		{Config{Primary: good, Default: []string{"x:65536"}}, `default server "x:65536"`},
		{Config{Primary: []string{"a:1", "a:1"}, Default: good}, `"a:1" is named twice`},
		{Config{Primary: good}, "at least one"},
		{Config{Default: good}, "at least one"},
	} {
		if _, err := New(test.config); err == nil || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%+v: error %v, want one with %s", test.config, err, test.want)
		}
	}
	if _, err := New(Config{Primary: []string{"[::1]:8081"}, Default: good}); err != nil {
		t.Error(err)
	}
}
