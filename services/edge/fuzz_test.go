package edge

import (
	"bufio"
	"bytes"
	"context"
	"io"
	"log/slog"
	"net"
	"net/http"
	"path"
	"regexp"
	"strings"
	"testing"
	"time"
)

// strictUpstream is an upstream that checks every byte of a request's head, and sends what is wrong to broken.
type strictUpstream struct {
	net.Listener
	broken chan string
}

var (
	requestLine = regexp.MustCompile("^([!#$%&'*+.^_`|~0-9A-Za-z-]+) (/[^\\x00-\\x20\\x7f]*|\\*) HTTP/1\\.1$")
	headerLine  = regexp.MustCompile("^[!#$%&'*+.^_`|~0-9A-Za-z-]+: [^\\x00\\r\\n]*$")
	dotSegments = regexp.MustCompile(`(?i)^/(metrics|healthz|readyz)/?$`)
)

// check returns what is wrong with a request's head. A second length of a body, or a line that one parser ends where
// another does not, is how requests are smuggled.
func check(head []byte, r *http.Request) string {
	lines := strings.Split(strings.TrimSuffix(string(head), "\r\n\r\n"), "\r\n")
	if !requestLine.MatchString(lines[0]) {
		return "request line"
	}
	count := make(map[string]int)
	for _, line := range lines[1:] {
		if !headerLine.MatchString(line) {
			return "header line " + line
		}
		name, _, _ := strings.Cut(strings.ToLower(line), ":")
		count[name]++
	}
	switch {
	case count["host"] != 1 || count["x-forwarded-for"] != 1 || count["x-request-id"] != 1:
		return "not one of each header of the edge"
	case count["content-length"]+count["transfer-encoding"] > 1:
		return "two lengths"
	case r.Header.Get("X-Forwarded-For") != "127.0.0.2":
		return "a forged address"
	case dotSegments.MatchString(path.Clean("/" + r.URL.Path)):
		return "an internal route"
	}
	return ""
}

// serve answers every request with a short text, until the listener is closed.
func (u *strictUpstream) serve() {
	for {
		conn, err := u.Accept()
		if err != nil {
			return
		}
		go func() {
			defer conn.Close()
			var raw bytes.Buffer
			in := bufio.NewReader(io.TeeReader(conn, &raw))
			for {
				r, err := http.ReadRequest(in)
				if err != nil {
					return
				}
				head, _, _ := bytes.Cut(raw.Bytes(), []byte("\r\n\r\n"))
				if r.URL.Path != "/readyz" || r.Header.Get("X-Forwarded-For") != "" {
					if fault := check(head, r); fault != "" {
						u.broken <- fault + ":\n" + raw.String()
					}
				}
				_, _ = io.Copy(io.Discard, r.Body)
				raw.Reset()
				if _, err := io.WriteString(conn, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"); err != nil {
					return
				}
			}
		}()
	}
}

// FuzzRequestLine sends the edge arbitrary bytes. What reaches an upstream is always one well-formed request with the
// edge's own forwarding headers, and never an internal route; the client always gets a well-formed answer, never a 5xx.
func FuzzRequestLine(f *testing.F) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		f.Fatal(err)
	}
	defer ln.Close()
	upstream := &strictUpstream{ln, make(chan string, 100)}
	go upstream.serve()
	address := ln.Addr().String()
	b, err := New(Config{Primary: []string{address}, Default: []string{address}, Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		f.Fatal(err)
	}
	front, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		f.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- b.Serve(ctx, front) }()
	defer func() { stop(); <-ended }()

	for _, seed := range []string{
		"GET /api/randoms?cant=1 HTTP/1.1\r\nHost: localhost\r\n\r\n",
		"GET //metrics/../healthz;a=b HTTP/1.1\r\nHost: localhost\r\n\r\n",
		"GET /%6d%65trics%2f HTTP/1.1\r\nHost: localhost\r\nX-Forwarded-For: 1.2.3.4\r\nForwarded: for=1.2.3.4\r\n\r\n",
		"GET http://localhost/info HTTP/1.0\r\nHost: example.org\r\nConnection: X-Request-Id, keep-alive\r\n\r\n",
		"POST /login HTTP/1.1\r\nHost: localhost\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\nGET /x HTTP/1.1\r\n\r\n",
		"GET a:b HTTP/1.1\r\nHost: localhost\r\n\r\n",
		"OPTIONS * HTTP/1.1\r\nHost: localhost\r\nContent-Length: +1\r\n\r\na",
		"GET /ws HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n\x81\x01a",
		"GET /\xff\x00 HTTP/1.1\r\nHost: localhost:8000\r\nX-A: b\r\n c\r\n\r\n",
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, input []byte) {
		dialer := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.IPv4(127, 0, 0, 2)}}
		conn, err := dialer.Dial("tcp", front.Addr().String())
		if err != nil {
			t.Skip(err) // all ports of the client's address are in use
		}
		defer conn.Close()
		_ = conn.SetDeadline(time.Now().Add(20 * time.Second))
		_, _ = conn.Write(input)
		_ = conn.(*net.TCPConn).CloseWrite()
		answers, _ := io.ReadAll(conn)
		select {
		case fault := <-upstream.broken:
			t.Errorf("%.2000q\nreaches the upstream with a wrong %s", input, fault)
		default:
		}
		if len(answers) == 0 {
			return
		}
		first, err := http.ReadResponse(bufio.NewReader(bytes.NewReader(answers)), nil)
		if err != nil {
			t.Fatalf("no answer: %v\n%.2000q", err, answers)
		}
		if first.StatusCode >= 500 && first.StatusCode != http.StatusHTTPVersionNotSupported &&
			first.StatusCode != http.StatusNotImplemented { // net/http's answers to other protocols
			t.Errorf("%.2000q\nis answered with %s", input, first.Status)
		}
	})
}
