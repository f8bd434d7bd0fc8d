package edge

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"
)

// accessLine is one of the access log, as programs read it.
type accessLine struct {
	Level, Msg, Request, Client, Method, Path, Server, Pid, Upstream string
	Status                                                           int
	Bytes                                                            int64
	Seconds                                                          float64
}

func TestAccessLog(t *testing.T) {
	site := newBackend(t, "", func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/ws":
			echo(w, r)
		case "/slow":
			<-r.Context().Done()
		default:
			w.Header().Set("X-Balanza-Server", "site")
			w.Header().Set("X-Balanza-Pid", "12")
			_, _ = io.WriteString(w, "hello")
		}
	})
	var log bytes.Buffer
	var mu sync.Mutex
	b := run(t, Config{
		Primary: []string{site.address}, Default: []string{site.address},
		AccessLog: slog.New(slog.NewJSONHandler(lockedWriter{&mu, &log}, nil)),
	})
	eventually(t, "ready", b.ready)
	// last returns the newest line, once there are that many.
	last := func(n int) (line accessLine) {
		t.Helper()
		eventually(t, fmt.Sprintf("%d lines", n), func() bool {
			mu.Lock()
			defer mu.Unlock()
			lines := strings.Split(strings.TrimSpace(log.String()), "\n")
			return len(lines) == n && json.Unmarshal([]byte(lines[n-1]), &line) == nil
		})
		if line.Msg != "request" || line.Level != "INFO" || line.Client != "127.0.0.1" || line.Seconds < 0 {
			t.Errorf("%+v", line)
		}
		return line
	}
	send := func(method, path string, body int) *http.Response {
		req, _ := http.NewRequestWithContext(t.Context(), method, b.url(path), bytes.NewReader(make([]byte, body)))
		req.Header.Set("Cookie", "secret=1")
		res, err := http.DefaultTransport.RoundTrip(req)
		if err != nil {
			t.Fatal(err)
		}
		_, _ = io.Copy(io.Discard, res.Body)
		res.Body.Close()
		return res
	}
	res := send("GET", "/api/randoms?cant=5&secret=1", 0)
	line := last(1)
	if line.Request != res.Header.Get(requestID) || line.Method != "GET" || line.Path != "/api/randoms" || line.Status != 200 ||
		line.Bytes != 5 || line.Server != "site" || line.Pid != "12" || line.Upstream != site.address || line.Seconds == 0 {
		t.Errorf("%+v", line)
	}
	res = send("POST", "/x", 100_000)
	line = last(2)
	if line.Request != res.Header.Get(requestID) || line.Status != 413 || line.Bytes == 0 || line.Upstream != "" {
		t.Errorf("%+v", line)
	}
	send("GET", "/"+strings.Repeat("ñ", 1000), 0) // longer than the limit of URLs
	if line = last(3); line.Status != 414 || len(line.Path) > maxLoggedPath+len("…") || !strings.HasSuffix(line.Path, "ñ…") {
		t.Errorf("%+v", line)
	}
	ws := dialSocket(t, b)
	if err := ws.WriteMessage(1, []byte("hello")); err != nil {
		t.Fatal(err)
	}
	if _, _, err := ws.ReadMessage(); err != nil {
		t.Fatal(err)
	}
	ws.Close()
	if line = last(4); line.Status != 101 || line.Path != "/ws" || line.Bytes != 7 || line.Upstream != site.address {
		t.Errorf("%+v", line)
	}
	c, _ := dial(t, b.address)
	fmt.Fprint(c, "GET /slow HTTP/1.1\r\nHost: localhost\r\n\r\n")
	time.Sleep(10 * time.Millisecond) // so that the request is on its way; before, it would have no line
	c.Close()
	if line = last(5); line.Status != statusClientLeft || line.Path != "/slow" {
		t.Errorf("%+v", line)
	}
	if strings.Contains(log.String(), "secret") {
		t.Errorf("a secret is in the log:\n%s", log.String())
	}

	totals := b.Totals()
	if want := [6]int64{1: 1, 2: 1, 4: 3}; totals.Requests != want || totals.Answered() != 5 {
		t.Errorf("counted %v, want %v", totals.Requests, want)
	}
	var sum int64
	for _, n := range totals.Durations {
		sum += n
	}
	if sum != 4 || totals.Seconds <= 0 {
		t.Errorf("%d durations of 4, %v s", sum, totals.Seconds)
	}
}

func TestDurationsAreSorted(t *testing.T) {
	var b Balancer
	for _, took := range []time.Duration{0, time.Millisecond, 2 * time.Millisecond, 10 * time.Second, time.Minute} {
		b.totals.add(200, took)
	}
	got := b.Totals()
	want := [len(DurationBounds) + 1]int64{0: 2, 1: 1, len(DurationBounds) - 1: 1, len(DurationBounds): 1}
	if got.Durations != want || got.Seconds != 70.003 {
		t.Errorf("%v, %v s", got.Durations, got.Seconds)
	}
}
