package web

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"regexp"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"balanza/services/hosts"
	"balanza/services/store"
)

// Only a trusted proxy's headers are believed: one named by its address, by a range, by a host name, or by the edge's token.
func TestProxies(t *testing.T) {
	for _, test := range []struct {
		config Config
		header map[string]string
		wants  bool
	}{
		{Config{}, nil, false},
		{Config{TrustedProxies: []string{"127.0.0.1"}}, nil, true},
		{Config{TrustedProxies: []string{"127.0.0.0/8"}}, nil, true},
		{Config{TrustedProxies: []string{"10.0.0.0/8", "192.0.2.1"}}, nil, false},
		{Config{TrustedProxies: []string{"localhost"}}, nil, true},
		{Config{TrustedProxies: []string{"nobody.invalid"}}, nil, false},
		{Config{EdgeToken: "secret"}, map[string]string{headerEdgeToken: "secret"}, true},
		{Config{EdgeToken: "secret"}, map[string]string{headerEdgeToken: "Secret"}, false},
		{Config{EdgeToken: "secret"}, map[string]string{headerEdgeToken: ""}, false},
		{Config{EdgeToken: "secret"}, nil, false},
		{Config{}, map[string]string{headerEdgeToken: ""}, false},
	} {
		p := startProcess(t, t.TempDir(), test.config)
		addUser(t, p.store, "ana@example.org")
		header := map[string]string{"X-Forwarded-Proto": "https", "X-Forwarded-For": "192.0.2.7", "X-Request-Id": "from-the-proxy"}
		for name, value := range test.header {
			header[name] = value
		}
		a := p.send(t, call{method: "POST", path: "/login", form: anasLogin, header: header}).want(t, http.StatusSeeOther)
		if c := a.session(t); c.Secure != test.wants {
			t.Errorf("%+v: secure %v", test.config.TrustedProxies, c.Secure)
		}
		if id := a.Header.Get("X-Request-Id"); (id == "from-the-proxy") != test.wants || id == "" {
			t.Errorf("%+v: id %q", test.config.TrustedProxies, id)
		}
		for name, values := range a.Header {
			if strings.EqualFold(name, headerEdgeToken) || strings.Contains(strings.Join(values, ""), "secret") {
				t.Errorf("the answer has %s: %v", name, values)
			}
		}
	}
}

// resolver answers like the DNS of a test.
type resolver struct {
	answer atomic.Pointer[func() ([]netip.Addr, error)]
	asked  atomic.Int64
}

func (r *resolver) set(answer func() ([]netip.Addr, error)) { r.answer.Store(&answer) }

func (r *resolver) lookUp(context.Context, string) ([]netip.Addr, error) {
	r.asked.Add(1)
	return (*r.answer.Load())()
}

// A proxy's name is looked up at most once a second; when nobody answers, those known before hold for a while, and no
// request waits for long.
func TestProxyName(t *testing.T) {
	var dns resolver
	one, two := netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("2001:db8::2")
	dns.set(func() ([]netip.Addr, error) { return []netip.Addr{one}, nil })
	n := &proxyName{name: "nginx", lookUp: dns.lookUp}
	age := func(by time.Duration) {
		n.mu.Lock()
		defer n.mu.Unlock()
		n.asked, n.answered = n.asked.Add(-by), n.answered.Add(-by)
	}
	for range 100 {
		if !n.has(one) || n.has(two) {
			t.Fatalf("one %v, two %v", n.has(one), n.has(two))
		}
	}
	if asked := dns.asked.Load(); asked != 1 {
		t.Errorf("looked up %d times in a moment", asked)
	}
	dns.set(func() ([]netip.Addr, error) { return []netip.Addr{two}, nil }) // a new container
	age(lookUpInterval)
	if !n.has(two) || n.has(one) {
		t.Error("the new address is not known, or the old one is still trusted")
	}
	dns.set(func() ([]netip.Addr, error) { return nil, errors.New("timeout") })
	age(proxyKept)
	if !n.has(two) {
		t.Error("a resolver that fails once takes the trust away")
	}
	age(proxyForgotten + time.Second)
	if n.has(two) {
		t.Error("trusted a minute after the last answer")
	}
	dns.set(func() ([]netip.Addr, error) { return []netip.Addr{two}, nil })
	age(lookUpInterval)
	n.has(two)
	dns.set(func() ([]netip.Addr, error) { return nil, &net.DNSError{IsNotFound: true} })
	age(proxyKept)
	if n.has(two) {
		t.Error("a name that is gone is trusted")
	}
	silent := make(chan bool)
	dns.set(func() ([]netip.Addr, error) { <-silent; return nil, errors.New("timeout") })
	age(proxyKept)
	began := time.Now()
	if n.has(one) || time.Since(began) > time.Second {
		t.Errorf("a silent resolver held a request for %v", time.Since(began))
	}
	close(silent)
}

// Requests for names that the site does not have are rejected, whatever the route; without a name, too.
func TestUnknownHosts(t *testing.T) {
	known, err := hosts.Parse("balanza.example *.tienda.example")
	if err != nil {
		t.Fatal(err)
	}
	v := serve(t, siteWithoutStore(t, Config{Hosts: known, TrustedProxies: []string{"127.0.0.1"}}), listen(t))
	address := strings.TrimPrefix(v.url, "http://")
	for host, status := range map[string]string{
		"balanza.example": "200", "BALANZA.example:8080": "200", "a.tienda.example": "200", "localhost": "200", address: "200", "[::1]:80": "200",
		"evil.example": "421", "balanza.example.evil.example": "421", "tienda.example": "421", "127.0.0.1.evil.example": "421",
		"8.8.8.8": "421",
	} {
		for _, accept := range []string{"application/json", "text/html"} {
			conn, err := net.Dial("tcp", address)
			if err != nil {
				t.Fatal(err)
			}
			answer := raw(t, conn, "GET /healthz HTTP/1.1\r\nHost: "+host+"\r\nAccept: "+accept+"\r\nX-Forwarded-For: 192.0.2.1\r\n\r\n")
			conn.Close()
			if !strings.HasPrefix(answer, "HTTP/1.1 "+status) || !strings.Contains(answer, "X-Balanza-Pid: ") ||
				status == "421" && !strings.Contains(answer, "BALANZA_SERVER_NAMES") || strings.Contains(answer, "evil") {
				t.Errorf("host %q: %s", host, answer)
			}
		}
	}
	for _, request := range []string{
		"GET /healthz HTTP/1.0\r\n\r\n", "GET /healthz HTTP/1.1\r\n\r\n", "PURGE / HTTP/1.1\r\nHost: evil.example\r\n\r\n",
		"GET http://evil.example/healthz HTTP/1.1\r\nHost: localhost\r\n\r\n",
		"GET /healthz HTTP/1.1\r\nHost: localhost\r\nHost: evil.example\r\n\r\n",
		"GET /healthz HTTP/1.1\r\nHost: evil.example\r\nHost: localhost\r\n\r\n",
	} {
		conn, err := net.Dial("tcp", address)
		if err != nil {
			t.Fatal(err)
		}
		if answer := raw(t, conn, request); !strings.HasPrefix(answer, "HTTP/1.1 4") {
			t.Errorf("%q: %s", request, answer)
		}
		conn.Close()
	}
	if err := v.Healthy(); err != nil {
		t.Error(err)
	}
}

// Every answer has an id, a proxy's if it can stand in a log; so has the line of the log about an error.
func TestRequestIDs(t *testing.T) {
	made := regexp.MustCompile(`^[0-9a-f]{32}$`)
	p := startProcess(t, t.TempDir(), Config{TrustedProxies: []string{"127.0.0.1"}})
	for id, kept := range map[string]bool{
		"0123-abcXYZ": true, strings.Repeat("a", maxRequestID): true, strings.Repeat("a", maxRequestID+1): false, "a b": false,
		"a\"": false, "é": false, "": false, "a\tb": false,
	} {
		got := p.send(t, call{path: "/info", header: map[string]string{"X-Request-Id": id}}).Header.Get("X-Request-Id")
		if kept && got != id || !kept && !made.MatchString(got) {
			t.Errorf("%q became %q", id, got)
		}
	}
	for _, c := range []call{{path: "/"}, {path: "/nowhere"}, {method: "PURGE", path: "/"}, {path: "/info", header: map[string]string{"Host": "evil"}},
		{method: "POST", path: "/login", body: strings.Repeat("a", 1<<20)}} {
		if got := p.send(t, c).Header.Get("X-Request-Id"); !made.MatchString(got) {
			t.Errorf("%s %s: id %q", c.method, c.path, got)
		}
	}
	addUser(t, p.store, "ana@example.org")
	conn, answer := p.dial(t, addSession(t, p.store, "ana@example.org"), p.url, "")
	if conn == nil || !made.MatchString(answer.Header.Get("X-Request-Id")) {
		t.Errorf("a websocket: %v", answer.Header)
	}

	var lines bytes.Buffer
	down := siteWithoutStore(t, Config{TrustedProxies: []string{"127.0.0.1"}, EdgeToken: "secret"})
	down.log = slog.New(slog.NewTextHandler(&lines, nil))
	down.config.Store = failingStore{}
	v := serve(t, down, listen(t))
	header := map[string]string{"X-Request-Id": "the-id", headerEdgeToken: "secret"}
	v.send(t, call{path: "/api/productos", header: header}).want(t, http.StatusInternalServerError)
	v.drain()
	v.end(t)
	if line := lines.String(); !strings.Contains(line, "request=the-id") || strings.Contains(line, "secret") {
		t.Errorf("the log: %s", line)
	}
}

// failingStore has errors that no client has caused.
type failingStore struct{ downStore }

func (failingStore) Products(context.Context, string, int) ([]store.Product, error) {
	return nil, errBroken
}
