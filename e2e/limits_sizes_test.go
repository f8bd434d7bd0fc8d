package e2e

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"balanza/services/limits"
)

// sized is a request, and the statuses one of which must answer it; none means the route's own answer.
type sized struct {
	name, text string
	rejected   []int
}

// around are the sizes that are sent: from below a limit to far above, those that matter among them.
func around(limit int) []int {
	sizes := []int{limit / 2, limit - 1, limit, limit + 1, limit + 100, limit + 1024, limit + 2048, limit + 3000, limit + 4096,
		limit + 4097, 2*limit - 1, 2 * limit, 2*limit + 1, 130_000, 3 * limit, 256 << 10, 256<<10 + 1, 512 << 10, 1 << 20}
	slices.Sort(sizes)
	return slices.Compact(sizes)
}

// sizedRequests returns requests of all sizes, from below each limit to far above.
func sizedRequests() (all []sized) {
	l := limits.Default()
	const start = " HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n"
	rejected := func(above bool, status ...int) []int {
		if above {
			return status
		}
		return nil
	}
	for _, n := range around(l.Body) {
		body, status := strings.Repeat("b", n), rejected(n > l.Body, http.StatusRequestEntityTooLarge)
		for _, line := range []string{"POST /api/productos", "POST /logout", "PUT /api/productos/1", "GET /info", "POST /api/randoms?cant=1"} {
			all = append(all, sized{fmt.Sprintf("%s with a body of %d", line, n),
				line + start + fmt.Sprintf("Content-Length: %d\r\n\r\n", n) + body, status})
			var chunked strings.Builder
			for rest := body; rest != ""; {
				part := rest[:min(len(rest), 16<<10)]
				rest = rest[len(part):]
				fmt.Fprintf(&chunked, "%x\r\n%s\r\n", len(part), part)
			}
			all = append(all, sized{fmt.Sprintf("%s with %d bytes in chunks", line, n),
				line + start + "Transfer-Encoding: chunked\r\n\r\n" + chunked.String() + "0\r\n\r\n", status})
		}
	}
	for _, n := range around(l.Header) { // with the empty line at the end
		status := rejected(n > l.Header, http.StatusRequestHeaderFieldsTooLarge)
		name := fmt.Sprintf("a header of %d", n)
		n -= len("\r\n")
		text := "GET /info" + start
		for n-len(text) > 1000 {
			text += "X-Padding: " + strings.Repeat("p", 787) + "\r\n"
		}
		text += "X-Padding: " + strings.Repeat("p", n-len(text)-len("X-Padding: \r\n")) + "\r\n"
		one := "GET /info" + start + "Cookie: " + strings.Repeat("c", n-len("GET /info"+start+"Cookie: \r\n")) + "\r\n"
		all = append(all, sized{name, text + "\r\n", status}, sized{name + " in one field", one + "\r\n", status})
	}
	for _, n := range around(l.URL) {
		// A very long URL is a header that is too large, too.
		status := []int{http.StatusRequestURITooLong}
		if n+len("GET "+start) > l.Header {
			status = append(status, http.StatusRequestHeaderFieldsTooLarge)
		}
		status = rejected(n > l.URL, status...)
		all = append(all, sized{fmt.Sprintf("a path of %d", n), "GET /" + strings.Repeat("u", n-1) + start + "\r\n", status},
			sized{fmt.Sprintf("a query of %d", n), "GET /info?" + strings.Repeat("q", n-len("/info?")) + start + "\r\n", status},
			sized{fmt.Sprintf("a draw of %d", n), "GET /api/randoms?cant=1&" + strings.Repeat("q", n-len("/api/randoms?cant=1&")) + start + "\r\n", status})
	}
	return all
}

// growing are requests within the limits that a proxy could make longer than what a server takes: it writes "a:" as "a: ",
// and may escape a path.
var growing = []sized{
	{"thousands of empty fields", "GET /info HTTP/1.1\r\nHost: localhost\r\n" + strings.Repeat("a:\n", 2300) + "\r\n",
		[]int{http.StatusRequestHeaderFieldsTooLarge}},
	{"a path that escaping lengthens", "GET /test/random/" + strings.Repeat("\xc3\xb1", 1900) + " HTTP/1.1\r\nHost: localhost\r\n\r\n",
		[]int{http.StatusRequestURITooLong, http.StatusNotFound, http.StatusBadRequest}},
}

// checkSizes sends all requests to an address, each before it reads any of the answer, as the simplest of clients do. Above a limit only its
// status is right, below it any that is no failure of the server.
func checkSizes(t *testing.T, address string, requests []sized) {
	t.Helper()
	for _, r := range requests {
		status, err := sendSized(address, r.text)
		switch {
		case err != nil:
			t.Errorf("%s: %v", r.name, err)
		case len(r.rejected) > 0 && !slices.Contains(r.rejected, status):
			t.Errorf("%s: %d, want one of %v", r.name, status, r.rejected)
		case len(r.rejected) == 0 && (status >= 500 || slices.Contains([]int{400, 408, 413, 414, 421, 431}, status)):
			t.Errorf("%s: %d, want the route's own answer", r.name, status)
		}
	}
}

// sendSized sends a request over a connection of its own and returns the status of the answer, which it has read to its end.
func sendSized(address, text string) (int, error) {
	c, err := net.DialTimeout("tcp", address, 10*time.Second)
	if err != nil {
		return 0, err
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(30 * time.Second))
	_ = c.(*net.TCPConn).SetWriteBuffer(16 << 10) // so that a long request does not fit into the kernel's buffers
	if _, err := io.WriteString(c, text); err != nil {
		return 0, err
	}
	method, _, _ := strings.Cut(text, " ")
	res, err := http.ReadResponse(bufio.NewReader(c), &http.Request{Method: method})
	if err != nil {
		return 0, err
	}
	_, err = io.Copy(io.Discard, res.Body)
	return res.StatusCode, err
}

// many is a setting that lets one address send all forms of a test.
const many = "BALANZA_LIMIT_ACCOUNT_FORMS=1000000"

// What the edge lets through, the servers answer themselves. What it rejects counts against none of them.
func TestSizesAtTheEdge(t *testing.T) {
	t.Parallel()
	f := up(t, many)
	checkSizes(t, f.address("edge"), append(sizedRequests(), growing...))
	checkCookies(t, f.url, "", 64)
	if n := f.upstreamFailures(); n != 0 {
		t.Errorf("the edge counts %d failures of the servers", n)
	}
}

// checkCookies sends cookies of up to some KiB, in one and in many. Those over the limit get a 431 that says what to do, in the
// form and the language of the client. protocol is that in TLS; without TLS it is empty.
func checkCookies(t *testing.T, url, protocol string, most int) {
	t.Helper()
	client := insecure()
	client.Transport.(*http.Transport).ForceAttemptHTTP2 = protocol == "h2"
	defer client.CloseIdleConnections()
	for _, size := range []int{7, 8, 9, 10, 11, 12, 16, 20, 29, 33, 64} {
		if size > most {
			break
		}
		statuses := []int{http.StatusRequestHeaderFieldsTooLarge}
		switch {
		case size < limits.Default().Header>>10:
			statuses = []int{http.StatusOK}
		case protocol == "h2" && size <= 10: // a cookie is shorter there, and a server takes a little more from a proxy
			statuses = append(statuses, http.StatusOK)
		}
		one := "c=" + strings.Repeat("e", size<<10) // by HTTP/2 a letter that takes 5 bits
		many := strings.Repeat("c="+strings.Repeat("e", 250)+"; ", size<<10/254)
		for form, words := range map[[2]string]string{
			{"text/html,*/*;q=0.8", "en-GB,en,es;q=0.1"}: "cookies of all projects add up: open 127.0.0.1", {"application/json", "es"}: "abra 127.0.0.1",
		} {
			for name, cookie := range map[string]string{"one": one, "many": many} {
				req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, url+"/info", http.NoBody)
				if err != nil {
					t.Fatal(err)
				}
				req.Header.Set("Accept", form[0])
				req.Header.Set("Accept-Language", form[1])
				req.Header.Set("Cookie", cookie)
				res, err := client.Do(req)
				if err != nil {
					t.Errorf("%s %s: %d KiB in %s: %v", url, protocol, size, name, err)
					continue
				}
				body, err := io.ReadAll(res.Body)
				res.Body.Close()
				isPage := strings.HasPrefix(string(body), "<!doctype html>")
				told := res.StatusCode == http.StatusOK || strings.Contains(string(body), words) && isPage == (form[0] != "application/json")
				if err != nil || !slices.Contains(statuses, res.StatusCode) || !told || (protocol == "h2") != (res.ProtoMajor == 2) {
					t.Errorf("%s %s: %d KiB in %s: %s %s: %v, %s", url, protocol, size, name, res.Proto, res.Status, err, tail(string(body), 300))
				}
			}
		}
	}
}

// upstreamFailures is how often the edge got no answer from a server, as its next heartbeat says.
func (f *fleet) upstreamFailures() (failures int) {
	f.t.Helper()
	began := time.Now()
	eventually(f.t, "a heartbeat of the edge", func() error {
		out, err := f.balanza("ps", "--json").Output()
		var all []struct {
			Workers []struct {
				Details []struct{ Failures, Requests int }
			}
		}
		if err == nil {
			err = json.Unmarshal(out, &all)
		}
		if err != nil {
			return err
		}
		requests := 0
		failures = 0
		for _, s := range all {
			for _, w := range s.Workers {
				for _, u := range w.Details {
					failures += u.Failures
					requests += u.Requests
				}
			}
		}
		if requests == 0 || time.Since(began) < 3*time.Second { // there is a heartbeat in every second
			return fmt.Errorf("no heartbeat with requests: %s", out)
		}
		return nil
	})
	return failures
}

// Without a tier in front the servers have the same limits.
func TestSizesAtTheServers(t *testing.T) {
	eachMode(t, func(t *testing.T, args ...string) {
		s := serve(t, t.TempDir(), args...)
		checkSizes(t, s.address(), sizedRequests())
		checkCookies(t, s.url, "", 64)
	})
}

// testSizes sends requests of all sizes through nginx, also by HTTP/2. None marks a server as failed.
func testSizes(t *testing.T, s *stack) {
	began := time.Now()
	checkSizes(t, strings.TrimPrefix(composeHTTP, "http://"), append(sizedRequests(), growing...))
	l := limits.Default()
	client := insecure()
	defer client.CloseIdleConnections()
	for _, test := range []struct {
		name                string
		body, fields, query int
		status              int
	}{
		{"body, limit", l.Body, 0, 0, http.StatusUnauthorized}, {"body, limit + 1", l.Body + 1, 0, 0, http.StatusRequestEntityTooLarge},
		{"body, 1 MiB", 1 << 20, 0, 0, http.StatusRequestEntityTooLarge},
		{"header, below the limit", 0, 7, 0, http.StatusUnauthorized}, {"header, above", 0, 13, 0, http.StatusRequestHeaderFieldsTooLarge},
		{"URL, below the limit", 0, 0, l.URL - 100, http.StatusUnauthorized}, {"URL, above", 0, 0, l.URL, http.StatusRequestURITooLong},
	} {
		req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, composeHTTPS+"/api/productos?"+strings.Repeat("q", test.query),
			bytes.NewReader(make([]byte, test.body)))
		if err != nil {
			t.Fatal(err)
		}
		for i := range test.fields {
			req.Header.Set(fmt.Sprintf("X-Padding-%d", i), strings.Repeat("p", 1000))
		}
		res, err := client.Do(req)
		if err != nil {
			t.Errorf("HTTP/2, %s: %v", test.name, err)
			continue
		}
		if _, err := io.Copy(io.Discard, res.Body); err != nil || res.StatusCode != test.status || res.ProtoMajor != 2 {
			t.Errorf("HTTP/2, %s: %d, want %d; %v", test.name, res.StatusCode, test.status, err)
		}
		res.Body.Close()
	}
	checkCookies(t, composeHTTP, "", 64)
	checkCookies(t, composeHTTPS, "http/1.1", 64)
	checkCookies(t, composeHTTPS, "h2", 29) // nginx ends an HTTP/2 connection without an answer where a header exceeds its buffer
	checkCookies(t, composeFork, "", 64)
	checkCookies(t, composeCluster, "", 64)
	s.checkNoServerFailed(t, began)
}

// checkNoServerFailed checks that nginx has taken no server for failed since a time.
func (s *stack) checkNoServerFailed(t *testing.T, since time.Time) {
	t.Helper()
	logs := s.compose(t, "logs", "--no-color", "--no-log-prefix", "--since", since.UTC().Format(time.RFC3339Nano), "nginx")
	for line := range strings.Lines(logs) {
		if strings.Contains(line, "temporarily disabled") || strings.Contains(line, "no live upstreams") {
			t.Errorf("nginx's log: %s", line)
		}
	}
}
