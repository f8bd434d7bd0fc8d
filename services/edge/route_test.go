package edge

import (
	"bytes"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"testing"
)

func TestUpstreamsGetEquallyMany(t *testing.T) {
	var four []*backend
	var addresses []string
	for range 4 {
		s := newBackend(t, "", nil)
		four, addresses = append(four, s), append(addresses, s.address)
	}
	site := newBackend(t, "", nil)
	b := run(t, Config{Primary: addresses, Default: []string{site.address}})
	eventually(t, "ready", b.ready)

	paths := []string{"/api/randoms?cant=1", "/test/randoms", "/test/random/", "/api/randoms/"}
	request := func(i int) {
		if status, text := get(t, b.url(paths[i%len(paths)])); status != http.StatusOK {
			t.Error(status, text)
		}
	}
	for i := range 400 {
		request(i)
	}
	var clients sync.WaitGroup
	for range 8 {
		clients.Go(func() {
			for i := range 50 {
				request(i)
			}
		})
	}
	clients.Wait()
	for _, s := range four {
		if n := s.count.Load(); n != 200 {
			t.Errorf("%s got %d of 800 requests, want 200", s.address, n)
		}
	}
	if st := b.Status()[2]; st.Address != addresses[2] || st.Role != "primary" || st.Requests != 200 {
		t.Errorf("%+v, want 200 requests of the primary %s", st, addresses[2])
	}
}

func TestRoutes(t *testing.T) {
	draws, site := newBackend(t, "", nil), newBackend(t, "", nil)
	b := run(t, Config{Primary: []string{draws.address}, Default: []string{site.address}})
	eventually(t, "ready", b.ready)
	for _, test := range []struct {
		path     string
		upstream *backend
		seen     string
	}{
		{"/api/randoms?cant=%zz;&x", draws, "/api/randoms?cant=%zz;&x"}, // the site answers a wrong query
		{"/api/randoms/?cant=3", draws, "/api/randoms/?cant=3"},
		{"/test/randoms", draws, "/test/randoms"},
		{"/test/random?cant=3", draws, "/test/randoms?cant=3"},
		{"/test/random/", draws, "/test/randoms"},
		{"/", site, "/"},
		{"/api/randomsx", site, "/api/randomsx"},
		{"/api/productos/a%2Fb", site, "/api/productos/a%2Fb"},
		{"/info/metrics", site, "/info/metrics"},
	} {
		status, text := get(t, b.url(test.path))
		if want := test.upstream.address + " " + test.seen; status != http.StatusOK || text != want {
			t.Errorf("%s: %d %q, want %q", test.path, status, text, want)
		}
	}
}

func TestInternalPathsAreHidden(t *testing.T) {
	site := newBackend(t, "", nil)
	b := run(t, Config{Primary: []string{site.address}, Default: []string{site.address}})
	eventually(t, "ready", b.ready)
	for _, path := range []string{
		"/metrics", "/metrics/", "/METRICS", "//metrics", "/x/../metrics", "/%6Detrics", "/metrics?x", "/healthz", "/readyz/",
	} {
		if status, text := get(t, b.url(path)); status != http.StatusNotFound {
			t.Errorf("%s: %d %q, want 404", path, status, text)
		}
	}
	if n := site.count.Load(); n != 0 {
		t.Errorf("%d of them reached the upstream", n)
	}

	for _, test := range []struct{ accept, language, contentType, want string }{
		{"", "", "application/json", `{"error":-2,"descripcion":"ruta /metrics método DELETE no implementada"}`},
		{"*/*", "fr, en;q=0.8, es;q=0.5", "application/json", `"route /metrics method DELETE not implemented"`},
		{"text/html,*/*", "es-AR,en", "text/html", `<html lang="es">`},
		{"text/html,*/*", "en-GB", "text/html", `<html lang="en">`},
	} {
		req, _ := http.NewRequestWithContext(t.Context(), http.MethodDelete, b.url("/metrics"), nil)
		req.Header.Set("Accept", test.accept)
		req.Header.Set("Accept-Language", test.language)
		res, err := http.DefaultTransport.RoundTrip(req)
		if err != nil {
			t.Fatal(err)
		}
		var text bytes.Buffer
		_, _ = text.ReadFrom(res.Body)
		res.Body.Close()
		if got := res.Header.Get("Content-Type"); !strings.HasPrefix(got, test.contentType) {
			t.Errorf("Accept %q: type %q", test.accept, got)
		}
		if !strings.Contains(text.String(), test.want) {
			t.Errorf("Accept %q, language %q: %s", test.accept, test.language, text.String())
		}
	}
}

func TestForwardedHeadersAreReplaced(t *testing.T) {
	var got http.Header
	var host string
	site := newBackend(t, "", func(w http.ResponseWriter, r *http.Request) { got, host = r.Header, r.Host })
	b := run(t, Config{
		Primary: []string{site.address}, Default: []string{site.address}, ServerNames: "balanza.example", Token: "secret",
	})
	eventually(t, "ready", b.ready)

	req, _ := http.NewRequestWithContext(t.Context(), http.MethodGet, b.url("/info"), nil)
	req.Host = "balanza.example:8000"
	for name, value := range map[string]string{
		"X-Forwarded-For": "6.6.6.6", "X-Forwarded-Proto": "https", "X-Forwarded-Host": "evil.example",
		"Forwarded": "for=6.6.6.6", "X-Balanza-Edge-Token": "guessed", "Connection": "X-Hop", "X-Hop": "1", "Upgrade": "h2c", "Cookie": "a=b",
	} {
		req.Header.Set(name, value)
	}
	roundTrip(t, req)
	for name, want := range map[string]string{
		"X-Forwarded-For": "127.0.0.1", "X-Forwarded-Proto": "http", "X-Forwarded-Host": "balanza.example:8000",
		"Forwarded": "", "X-Balanza-Edge-Token": "secret", "X-Hop": "", "Upgrade": "", "Connection": "", "Cookie": "a=b",
	} {
		if value := strings.Join(got[name], "|"); value != want {
			t.Errorf("%s is %q, want %q", name, value, want)
		}
	}
	if host != "balanza.example:8000" {
		t.Errorf("Host is %q", host)
	}
}

func TestTokenOfAClientIsRemoved(t *testing.T) {
	var got http.Header
	site := newBackend(t, "", func(w http.ResponseWriter, r *http.Request) { got = r.Header })
	b := run(t, Config{Primary: []string{site.address}, Default: []string{site.address}})
	eventually(t, "ready", b.ready)
	req, _ := http.NewRequestWithContext(t.Context(), http.MethodGet, b.url("/info"), nil)
	req.Header.Set("X-Balanza-Edge-Token", "guessed")
	roundTrip(t, req)
	if values := got.Values("X-Balanza-Edge-Token"); len(values) != 0 {
		t.Errorf("the upstream got %q", values)
	}
	upstreams := []string{site.address}
	for _, token := range []string{"a b", "a\nb", "ñ", strings.Repeat("a", 257)} {
		if _, err := New(Config{Primary: upstreams, Default: upstreams, Token: token}); err == nil {
			t.Errorf("the token %q is accepted", token)
		}
	}
}

// The id of a request is the balancer's own, in what the upstream gets and in every answer.
func TestRequestID(t *testing.T) {
	var got []string
	site := newBackend(t, "", func(w http.ResponseWriter, r *http.Request) {
		got = r.Header.Values("X-Request-Id")
		w.Header().Set("X-Request-Id", "the upstream's")
	})
	b := run(t, Config{Primary: []string{site.address}, Default: []string{site.address}})
	eventually(t, "ready", b.ready)
	seen := map[string]bool{}
	for _, path := range []string{"/info", "/api/randoms", "/metrics"} {
		got = nil
		req, _ := http.NewRequestWithContext(t.Context(), http.MethodGet, b.url(path), nil)
		req.Header.Set("X-Request-Id", "the client's")
		res, err := http.DefaultTransport.RoundTrip(req)
		if err != nil {
			t.Fatal(err)
		}
		res.Body.Close()
		ids := res.Header.Values("X-Request-Id")
		if len(ids) != 1 || len(ids[0]) < 20 || seen[ids[0]] {
			t.Errorf("%s: the answer has the ids %q", path, ids)
			continue
		}
		seen[ids[0]] = true
		if path != "/metrics" && (len(got) != 1 || got[0] != ids[0]) {
			t.Errorf("%s: the upstream got %q, the client %q", path, got, ids)
		}
	}
}

func TestUnknownHosts(t *testing.T) {
	site := newBackend(t, "", nil)
	b := run(t, Config{
		Primary: []string{site.address}, Default: []string{site.address}, ServerNames: "balanza.example *.example.org",
	})
	eventually(t, "ready", b.ready)
	send := func(host, path string) (*http.Response, string) {
		c, in := dial(t, b.address)
		if host == "" {
			fmt.Fprintf(c, "GET %s HTTP/1.0\r\nAccept-Language: en\r\n\r\n", path)
		} else {
			fmt.Fprintf(c, "GET %s HTTP/1.1\r\nHost: %s\r\nAccept-Language: en\r\nConnection: close\r\n\r\n", path, host)
		}
		res, err := http.ReadResponse(in, nil)
		if err != nil {
			t.Fatalf("%q: %v", host, err)
		}
		text, _ := io.ReadAll(res.Body)
		return res, string(text)
	}
	for _, host := range []string{"localhost", b.address, "balanza.example:8000", "a.example.org", "[::1]:8000"} {
		if res, _ := send(host, "/info"); res.StatusCode != http.StatusOK {
			t.Errorf("%s: %d", host, res.StatusCode)
		}
	}
	site.count.Store(0)
	for _, host := range []string{"", "elsewhere.example", "balanza.example.evil.org", "203.0.113.9"} {
		for _, path := range []string{"/info", "/api/randoms", "/metrics"} {
			if res, text := send(host, path); res.StatusCode != http.StatusMisdirectedRequest ||
				!strings.Contains(text, "BALANZA_SERVER_NAMES") {
				t.Errorf("%q: %d %s", host, res.StatusCode, text)
			}
		}
	}
	if n := site.count.Load(); n != 0 {
		t.Errorf("%d requests reached the upstream", n)
	}
	if _, err := New(Config{Primary: []string{site.address}, Default: []string{site.address}, ServerNames: "a:b"}); err == nil ||
		!strings.Contains(err.Error(), `"a:b" is neither`) {
		t.Errorf("error %v", err)
	}
}
