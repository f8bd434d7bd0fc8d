package e2e

import (
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"
)

// benefit is a feature of nginx that lines of its configuration turn on.
type benefit struct {
	name        string
	file        string
	lines       string // regular expression that matches these lines
	replacement string // for the lines, without the feature
	check       func() error
}

// testBenefits checks each feature with its lines, without them, and with them once more.
func testBenefits(t *testing.T, s *stack) {
	asset := assetPath(t)
	benefits := []benefit{
		{"balance", "balance.conf", `server replica:8080`, "server cluster:8081", func() error { return s.checkEven(t, 40, 4, 0) }},
		{"balance: websockets", "balance.conf", `proxy_set_header Upgrade .*`, "", upgraded},

		{"cache", "locations.conf", `proxy_cache public;`, "", func() error { return cached(asset) }},

		{"protect: headers of the client", "balance.conf", `proxy_set_header X-Forwarded-Proto .*`, "", clientSchemeIgnored},
		{"protect: log-ins", "protect.conf", `"~\*\^POST .*`, "", func() error {
			return checkLimited(30, func() (reply, error) { return ask(http.MethodPost, composeHTTP+"/login", "email=") })
		}},
		{"protect: heavy draws", "protect.conf", `"~\*\^/\(api/randoms\|test/randoms\?\)\[/\?\]" .*`, "", func() error {
			return checkLimited(24, func() (reply, error) {
				return ask(http.MethodGet, composeHTTP+"/api/randoms?cant=60000000", "")
			})
		}},
		{"protect: unknown hosts", "nginx.conf", ` default_server`, "", func() error {
			answer, err := ask(http.MethodGet, composeHTTP+"/", "", "Host: elsewhere.example")
			if err == nil && (answer.StatusCode != http.StatusMisdirectedRequest || answer.server() != "") { // the servers know their names too
				err = fmt.Errorf("%s by %q", answer.Status, answer.server())
			}
			return err
		}},
		{"protect: internal paths", "locations.conf", `metrics\|healthz\|readyz`, "nothing", internalPathsHidden},
		{"protect: connections", "protect.conf", `(\$client \{\n    default +)\$binary_remote_addr;`, `$1"";`, func() error {
			return connectionsLimited(300)
		}},
		{"protect: body", "nginx.conf", `include locations.conf;`, "include locations.conf; client_max_body_size 0;", func() error {
			answer, err := ask(http.MethodPost, composeHTTP+"/api/productos", strings.Repeat("x", 70_000))
			return rejectedByNginx(answer, err, http.StatusRequestEntityTooLarge)
		}},
		{"protect: URL", "locations.conf", `rewrite \^ /url-too-long last;`, "", func() error {
			answer, err := ask(http.MethodGet, composeHTTP+"/info?"+strings.Repeat("q", 5000), "")
			return rejectedByNginx(answer, err, http.StatusRequestURITooLong)
		}},
		{"protect: header", "locations.conf", `return 431;`, "", func() error {
			answer, err := ask(http.MethodGet, composeHTTP+"/info", "", "X-Padding: "+strings.Repeat("p", 8150))
			return rejectedByNginx(answer, err, http.StatusRequestHeaderFieldsTooLarge)
		}},
		{"protect: many fields", "protect.conf", `max_headers .*`, "max_headers 1000;", func() error {
			var fields []string
			for i := range 300 {
				fields = append(fields, fmt.Sprintf("X-%d: 1", i))
			}
			answer, err := ask(http.MethodGet, composeHTTP+"/info", "", fields...)
			return rejectedByNginx(answer, err, http.StatusRequestHeaderFieldsTooLarge)
		}},
		{"protect: answers", "pages.conf", `error_page .*`, "", func() error {
			answer, err := ask(http.MethodPost, composeHTTP+"/api/productos", strings.Repeat("x", 70_000))
			return rejectedByNginx(answer, err, http.StatusRequestEntityTooLarge)
		}},
		{"protect: version", "protect.conf", `server_tokens off;`, "", func() error {
			answer, err := ask(http.MethodGet, composeHTTP+"/info", "")
			return expect(err, answer.Header.Get("Server") == "nginx", "Server: %s", answer.Header.Get("Server"))
		}},
		{"protect: headers", "protect.conf", `add_header (Content-Security-Policy|X-Content-Type-Options|X-Frame-Options) .*`, "", securityHeaders},

		{"compress", "locations.conf", `gzip on;`, "", func() error {
			return errors.Join(compressed(asset, true), compressed("/api/productos-test", true))
		}},
		{"compress: not beside secrets", "compress.conf", `gzip off;`, "gzip on;", func() error { return compressed("/login", false) }},
		{"compress: not the events of a draw", "compress.conf", `gzip_types `,
			"proxy_ignore_headers X-Accel-Buffering; gzip_types text/event-stream ", func() error { return progressArrives(composeHTTP) }},

		{"TLS", "nginx.conf", `listen 443 ssl.*`, "", func() error { return negotiated("http/1.1", 0) }},
		{"TLS: HTTP/2", "tls.conf", `http2 on;`, "", func() error { return negotiated("h2", 0) }},
		{"TLS: ciphers", "tls.conf", `ssl_ciphers .*`, "ssl_ciphers ALL;", func() error {
			return expect(nil, negotiated("h2", tls.TLS_ECDHE_ECDSA_WITH_AES_128_CBC_SHA) != nil, "an old cipher was accepted")
		}},

		{"monitor: log", "monitor.conf", `access_log .*`, "access_log off;", func() error { return s.logged(t) }},
		{"monitor: status", "nginx.conf", `stub_status;`, "return 404;", func() error {
			_, err := s.try("exec", "--no-TTY", "nginx", "curl", "-fsS", "http://127.0.0.1:8080/status")
			return err
		}},
	}
	for _, b := range benefits {
		t.Run(b.name, func(t *testing.T) {
			eventually(t, "with its lines", b.check)
			restore := s.edit(t, "nginx/"+b.file, b.lines, b.replacement)
			defer func() {
				restore()
				s.reload(t)
				eventually(t, "with its lines restored", b.check)
			}()
			s.reload(t)
			eventually(t, "without its lines", func() error {
				if b.check() == nil {
					return errors.New("the check passes without the lines")
				}
				return nil
			})
		})
	}
}

// edit replaces what matches a pattern in a file of the clone, which must change by it.
func (s *stack) edit(t *testing.T, name, pattern, replacement string) (restore func()) {
	t.Helper()
	before := readFile(t, filepath.Join(s.dir, name))
	after := regexp.MustCompile(pattern).ReplaceAll(before, []byte(replacement))
	if string(after) == string(before) {
		t.Fatalf("%s has no %s", name, pattern)
	}
	s.write(t, name, after)
	return func() { s.write(t, name, before) }
}

// reload makes nginx read its configuration at once: init copies it.
func (s *stack) reload(t *testing.T) {
	t.Helper()
	s.docker(t, "start", "--attach", composeProject+"-init-1")
	s.docker(t, "kill", "--signal", "HUP", composeProject+"-nginx-1")
}

// awaitNginx waits until nginx has loaded what init wrote.
func (s *stack) awaitNginx(t *testing.T) {
	t.Helper()
	eventually(t, "nginx with the new configuration", func() error {
		written, loaded, err := s.versions()
		return expect(err, written == loaded, "nginx runs version %q, not %q", loaded, written)
	})
}

// versions returns the version of the configuration that was written, and of the one that nginx has loaded.
func (s *stack) versions() (written, loaded string, err error) {
	out, err := s.try("exec", "--no-TTY", "nginx", "sh", "-c", "cat /secrets/version.conf; curl -fsS http://127.0.0.1:8080/version")
	written, loaded, _ = strings.Cut(out, "\n")
	return strings.TrimSuffix(strings.TrimPrefix(written, "return 200 "), ";"), loaded, err
}

// expect returns the error of a request, or else one in this format unless ok.
func expect(err error, ok bool, format string, args ...any) error {
	if err == nil && !ok {
		err = fmt.Errorf(format, args...)
	}
	return err
}

// status requests a path through nginx and returns an error unless the response has the status wanted.
func status(want int, path string, headers ...string) error {
	answer, err := ask(http.MethodGet, composeHTTP+path, "", headers...)
	return expect(err, answer.StatusCode == want, "%s %v: got %d, want %d", path, headers, answer.StatusCode, want)
}

// assetPath is the path of the style sheet in the log-in page.
func assetPath(t *testing.T) string {
	t.Helper()
	answer, err := ask(http.MethodGet, composeHTTP+"/login", "")
	if err != nil {
		t.Fatal(err)
	}
	path := regexp.MustCompile(`/assets/[^"]+\.css[^"]*`).FindString(answer.body)
	if path == "" {
		t.Fatalf("no style sheet in\n%s", answer.body)
	}
	return path
}

// upgraded returns nil when nginx forwards an upgrade request as one. The server answers 401, as there is no session;
// without the Upgrade header it would answer with a page.
func upgraded() error {
	answer, err := ask(http.MethodGet, composeHTTP+"/ws", "", "Connection: Upgrade", "Upgrade: websocket",
		"Sec-WebSocket-Version: 13", "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==", "Origin: "+composeHTTP)
	return expect(err, answer.StatusCode == http.StatusUnauthorized, "/ws: %d", answer.StatusCode)
}

// cached returns nil when nginx answers with assets from its cache, and with pages and API results from a server.
func cached(asset string) error {
	for range 2 {
		if _, err := ask(http.MethodGet, composeHTTP+asset, ""); err != nil {
			return err
		}
	}
	answer, err := ask(http.MethodGet, composeHTTP+asset, "")
	if err := expect(err, answer.Header.Get("X-Cache-Status") == "HIT", "asset: %q", answer.Header.Get("X-Cache-Status")); err != nil {
		return err
	}
	for _, path := range []string{"/info", "/api/randoms?cant=1000", "/login", "/api/productos-test"} {
		for range 2 {
			answer, err := ask(http.MethodGet, composeHTTP+path, "")
			if err := expect(err, answer.Header.Get("X-Cache-Status") != "HIT", "%s came from the cache", path); err != nil {
				return err
			}
		}
	}
	return nil
}

// checkLimited sends n requests at once and returns nil when nginx itself rejects some of them with status 429.
func checkLimited(n int, send func() (reply, error)) error {
	var (
		wg     sync.WaitGroup
		mu     sync.Mutex
		counts = map[string]int{}
	)
	for range n {
		wg.Go(func() {
			answer, err := send()
			mu.Lock()
			defer mu.Unlock()
			switch {
			case err != nil:
				counts["failed"]++
			case rejectedByNginx(answer, nil, http.StatusTooManyRequests) == nil && answer.Header.Get("Retry-After") != "":
				counts["rejected by nginx"]++
			default:
				counts[answer.Status]++
			}
		})
	}
	wg.Wait()
	return expect(nil, counts["rejected by nginx"] > 0 && counts["failed"] == 0, "of %d at once: %v", n, counts)
}

// rejectedByNginx returns nil for a status and a text of nginx's that says what to do, in place of its stock page.
func rejectedByNginx(answer reply, err error, status int) error {
	return expect(err, answer.StatusCode == status && answer.Header.Get("X-Balanza-Server") == "" && !strings.Contains(answer.body, "<center>"),
		"%d of %q: %s", answer.StatusCode, answer.Header.Get("X-Balanza-Server"), tail(answer.body, 200))
}

// connectionsLimited opens n connections with unfinished requests and returns nil when nginx rejects another request of
// the same address.
func connectionsLimited(n int) error {
	for range n {
		conn, err := net.Dial("tcp", strings.TrimPrefix(composeHTTP, "http://"))
		if err != nil {
			return err
		}
		defer conn.Close()
		if _, err := fmt.Fprint(conn, "POST /api/productos HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000\r\n\r\n"); err != nil {
			return err
		}
	}
	time.Sleep(200 * time.Millisecond) // until nginx has read them
	answer, err := ask(http.MethodGet, composeHTTP+"/info", "")
	return rejectedByNginx(answer, err, http.StatusTooManyRequests)
}

// internalPathsHidden returns nil when nginx answers requests for internal paths with 404 itself, however they are spelled.
func internalPathsHidden() error {
	for _, path := range []string{"/metrics", "/healthz", "/readyz", "/Metrics", "/metrics/", "//metrics", "/%6detrics", "/x/../metrics"} {
		answer, err := ask(http.MethodGet, composeHTTP+path, "")
		if err := expect(err, answer.StatusCode == http.StatusNotFound && answer.Header.Get("X-Balanza-Pid") == "",
			"%s reaches %q", path, answer.Header.Get("X-Balanza-Server")); err != nil {
			return err
		}
	}
	return nil
}

// securityHeaders checks a response of a server and one of nginx itself.
func securityHeaders() error {
	for _, path := range []string{"/info", "/metrics"} {
		answer, err := ask(http.MethodGet, composeHTTP+path, "")
		if err != nil {
			return err
		}
		for _, name := range []string{"Content-Security-Policy", "X-Content-Type-Options", "X-Frame-Options", "Referrer-Policy"} {
			if values := answer.Header.Values(name); len(values) != 1 || strings.Contains(values[0], "unsafe-inline") {
				return fmt.Errorf("%s: %s: %q", path, name, values)
			}
		}
	}
	return nil
}

// clientSchemeIgnored returns nil when a client's own X-Forwarded-Proto has no effect: over plain HTTP it gets a cookie
// without Secure.
func clientSchemeIgnored() error {
	account := fmt.Sprintf("email=claims%d@example.org&password=una-clave-larga-7&nombre=A&apellido=B&edad=30&alias=c", time.Now().UnixNano())
	answer, err := ask(http.MethodPost, composeHTTP+"/signup", account,
		"Content-Type: application/x-www-form-urlencoded", "X-Forwarded-Proto: https")
	cookie := answer.Header.Get("Set-Cookie")
	return expect(err, cookie != "" && !strings.Contains(cookie, "Secure"), "%d with cookie %q", answer.StatusCode, cookie)
}

// compressed returns nil when a response is compressed, or is not, as wanted.
func compressed(path string, want bool) error {
	answer, err := ask(http.MethodGet, composeHTTP+path, "", "Accept-Encoding: gzip")
	return expect(err, (answer.Header.Get("Content-Encoding") == "gzip") == want,
		"%s: Content-Encoding %q", path, answer.Header.Get("Content-Encoding"))
}

// negotiated returns nil when TLS negotiates the protocol, with this TLS 1.2 cipher unless it is 0, and /info answers by HTTPS.
func negotiated(protocol string, cipher uint16) error {
	config := &tls.Config{InsecureSkipVerify: true, NextProtos: []string{protocol}}
	if cipher != 0 {
		config.CipherSuites, config.MaxVersion = []uint16{cipher}, tls.VersionTLS12
	}
	conn, err := tls.DialWithDialer(&net.Dialer{Timeout: 5 * time.Second}, "tcp", strings.TrimPrefix(composeHTTPS, "https://"), config)
	if err != nil {
		return err
	}
	defer conn.Close()
	if got := conn.ConnectionState().NegotiatedProtocol; got != protocol {
		return fmt.Errorf("negotiated %q, want %q", got, protocol)
	}
	answer, err := ask(http.MethodGet, composeHTTPS+"/info", "")
	return expect(err, answer.StatusCode == http.StatusOK, "/info by HTTPS: %d", answer.StatusCode)
}

// logged returns nil when nginx's log has a JSON line with the id of a response.
func (s *stack) logged(t *testing.T) error {
	answer, err := ask(http.MethodGet, composeHTTP+"/api/randoms?cant=1001", "")
	if err != nil {
		return err
	}
	id := answer.Header.Get("X-Request-Id")
	for line := range strings.Lines(s.compose(t, "logs", "--no-color", "--no-log-prefix", "--tail", "50", "nginx")) {
		if id == "" || !strings.Contains(line, id) {
			continue
		}
		var entry struct {
			URI, Upstream, Server string
			Status                int
			Seconds               *float64
		}
		if err := json.Unmarshal([]byte(line), &entry); err != nil {
			return err
		}
		return expect(nil, entry.URI == "/api/randoms?cant=1001" && entry.Status == 200 && entry.Upstream != "" &&
			strings.HasPrefix(entry.Server, answer.server()) && entry.Seconds != nil, "the log has %s", line)
	}
	return fmt.Errorf("no line of request %q", id)
}
