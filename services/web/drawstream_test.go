package web

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"balanza/services/draw"
	"balanza/services/limits"
)

// drawEvent is one event of a draw's stream; the fields that its kind does not have are zero.
type drawEvent struct {
	name      string
	data      string
	Drawn, Of int64
	counts    map[string]int64
}

// eventReader reads the events of an open stream.
type eventReader struct {
	*http.Response
	lines *bufio.Scanner
}

// openDraw asks for the events of a draw. The stream is closed when the test ends.
func (v *runningSite) openDraw(t *testing.T, n int64, headers ...string) eventReader {
	t.Helper()
	r, err := http.NewRequest(http.MethodGet, fmt.Sprintf("%s/api/randoms?cant=%d", v.url, n), nil)
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("Accept", "text/event-stream, application/json;q=0.9")
	for i := 0; i < len(headers); i += 2 {
		r.Header.Set(headers[i], headers[i+1])
	}
	transport := &http.Transport{}
	t.Cleanup(transport.CloseIdleConnections)
	a, err := (&http.Client{Transport: transport}).Do(r)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { a.Body.Close() })
	lines := bufio.NewScanner(a.Body)
	return eventReader{a, lines}
}

// next returns the next event, or false at the end of the stream.
func (r eventReader) next(t *testing.T) (e drawEvent, ok bool) {
	t.Helper()
	for r.lines.Scan() {
		field, value, _ := strings.Cut(r.lines.Text(), ": ")
		switch field {
		case "event":
			e.name = value
		case "data":
			e.data = value
		case "":
			var into any = &e
			if e.name == "result" {
				into = &e.counts
			}
			if err := json.Unmarshal([]byte(e.data), into); err != nil {
				t.Fatalf("%s: %v", e.data, err)
			}
			return e, true
		}
	}
	return e, false
}

// all reads the stream to its end.
func (r eventReader) all(t *testing.T) (events []drawEvent) {
	t.Helper()
	for e, ok := r.next(t); ok; e, ok = r.next(t) {
		events = append(events, e)
	}
	if err := r.lines.Err(); err != nil {
		t.Fatal(err)
	}
	return events
}

// The progress grows, and the result has as many draws as were asked for.
func TestDrawStream(t *testing.T) {
	p := start(t)
	var reading time.Duration
	for _, n := range []int64{1, draw.Inline, 5_000_000, draw.Max} {
		r := p.openDraw(t, n)
		for name, want := range map[string]string{
			"Content-Type": "text/event-stream", "Cache-Control": "no-store", "X-Accel-Buffering": "no",
			"X-Balanza-Pid": strconv.Itoa(os.Getpid()), "X-Balanza-Server": "test:1", "X-Balanza-Worker": "0",
		} {
			if got := r.Header.Get(name); got != want {
				t.Errorf("%s: %q, want %q", name, got, want)
			}
		}
		began := time.Now()
		events := r.all(t)
		reading += time.Since(began)
		last := events[len(events)-1]
		var sum int64
		for _, times := range last.counts {
			sum += times
		}
		if last.name != "result" || sum != n {
			t.Errorf("the result of %d draws: %s of %d", n, last.name, sum)
		}
		var drawn []int64
		for _, e := range events[:len(events)-1] {
			if e.name != "progress" || e.Of != n || e.Drawn > n {
				t.Errorf("%+v", e)
			}
			drawn = append(drawn, e.Drawn)
		}
		if !slices.IsSorted(drawn) || len(drawn) == 0 || n == draw.Max && len(slices.Compact(drawn)) < 2 {
			t.Errorf("progress of %d draws: %d", n, drawn)
		}
	}
	counter := `balanza_http_requests_total{method="GET",route="/api/randoms",code="2xx"}`
	if got := p.Counters()[counter]; got != 4 {
		t.Errorf("%v requests counted, want 4", got)
	}
	if took := p.Counters()[`balanza_http_request_duration_seconds_sum{method="GET",route="/api/randoms"}`]; took < reading.Seconds()/2 {
		t.Errorf("the requests took %v s by the metrics, and %v for their client", took, reading)
	}
}

// Only a GET that names and prefers text/event-stream gets events; others get what they always got.
func TestDrawStreamOnlyWhenAskedFor(t *testing.T) {
	p := start(t)
	for accept, want := range map[string]string{
		"":                                    "application/json",
		"*/*":                                 "application/json",
		"text/*":                              "application/json",
		"application/json":                    "application/json",
		"text/html,*/*;q=.8":                  "application/json",
		"application/json, text/event-stream": "application/json",
		"text/event-stream;q=0, */*":          "application/json",
		"text/event-stream":                   "text/event-stream",
		"text/event-stream, application/json;q=0.5": "text/event-stream",
	} {
		a := p.send(t, call{path: "/api/randoms?cant=1000", header: map[string]string{"Accept": accept}}).want(t, http.StatusOK)
		if got := a.Header.Get("Content-Type"); got != want {
			t.Errorf("Accept: %s: %s, want %s", accept, got, want)
		}
	}
	events := map[string]string{"Accept": mimeEvents}
	head := p.send(t, call{method: http.MethodHead, path: "/api/randoms?cant=1000", header: events}).want(t, http.StatusOK)
	if got := head.Header.Get("Content-Type"); got != "application/json" {
		t.Errorf("HEAD: %s", got)
	}
	wrong := p.send(t, call{path: "/api/randoms?cant=0", header: events}).want(t, http.StatusBadRequest)
	if e := wrong.jsonError(t); e.Campo != "cant" {
		t.Errorf("%+v", e)
	}
	conn, err := net.Dial("tcp", strings.TrimPrefix(p.url, "http://"))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	fmt.Fprintf(conn, "GET /api/randoms?cant=1000 HTTP/1.0\r\nHost: localhost\r\nAccept: %s\r\n\r\n", mimeEvents)
	old, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil || old.Header.Get("Content-Type") != "application/json" || old.ContentLength < 1 {
		t.Errorf("HTTP/1.0: %v %v", old, err)
	}
}

// A stream occupies one of its client's draws up to its end, and a client that leaves ends it: the slot is free, nothing is
// drawn any more, and the metrics have the request as the client's doing.
func TestDrawStreamLimit(t *testing.T) {
	l := limits.Default()
	l.Draws = 1
	p := startProcess(t, t.TempDir(), Config{Limits: l})
	for range 3 {
		r := p.openDraw(t, draw.Max)
		if e, ok := r.next(t); !ok || e.name != "progress" {
			t.Fatalf("%+v", e)
		}
		second := p.send(t, call{path: "/api/randoms?cant=1000000", header: map[string]string{"Accept": mimeEvents}})
		if second.StatusCode != http.StatusTooManyRequests || second.jsonError(t).Error != codeTooMany {
			t.Fatalf("a second draw: %d", second.StatusCode)
		}
		r.Body.Close()
		eventually(t, "another draw is accepted", func() bool {
			return p.send(t, call{path: "/api/randoms?cant=1000000"}).StatusCode == http.StatusOK
		})
	}
	before := processorTime(t)
	time.Sleep(300 * time.Millisecond)
	if used := processorTime(t) - before; used > 150*time.Millisecond {
		t.Errorf("%v of processor time in 300 ms after all clients have left", used)
	}
	counters := p.Counters()
	if got := counters[`balanza_http_requests_total{method="GET",route="/api/randoms",code="5xx"}`]; got != 0 {
		t.Errorf("%v errors of the server", got)
	}
	if got := counters[`balanza_http_requests_total{method="GET",route="/api/randoms",code="4xx"}`]; got < 6 {
		t.Errorf("%v requests ended by clients or by the limit, want 6", got)
	}
}

// A draw that is longer than the drain ends with an error event in the client's language, and the stream is complete.
func TestDrawStreamDrain(t *testing.T) {
	p := startProcess(t, t.TempDir(), Config{DrainIdle: 10 * time.Millisecond, DrainTimeout: 50 * time.Millisecond})
	// With more draws at a time than a test waits for, none is done before the drain ends.
	streams := make([]eventReader, 12)
	for i := range streams {
		streams[i] = p.openDraw(t, draw.Max, "Accept-Language", "en")
	}
	p.drain()
	for _, r := range streams {
		events := r.all(t)
		last := events[len(events)-1]
		var e struct {
			errorBody
			Status int
		}
		if err := json.Unmarshal([]byte(last.data), &e); err != nil || last.name != "error" || e.Error != codeUnavailable ||
			e.Status != http.StatusServiceUnavailable || e.Descripcion != p.texts["en"].format("error.draining") {
			t.Errorf("%+v %v", last, err)
		}
	}
	p.end(t)
	if got := p.Counters()[`balanza_http_requests_total{method="GET",route="/api/randoms",code="5xx"}`]; got != float64(len(streams)) {
		t.Errorf("%v counted, want %d", got, len(streams))
	}
}

// A client that does not read its events is disconnected, and its draw's slot is free.
func TestDrawStreamUnread(t *testing.T) {
	l := limits.Default()
	l.Draws, l.ClientTimeout = 1, 300*time.Millisecond
	p := startProcess(t, t.TempDir(), Config{Limits: l})
	conn, err := net.Dial("tcp", strings.TrimPrefix(p.url, "http://"))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	_ = conn.(*net.TCPConn).SetReadBuffer(1)
	// The answers to so many requests do not fit into the kernel's buffers.
	request := fmt.Sprintf("GET /api/randoms?cant=1000000 HTTP/1.1\r\nHost: localhost\r\nAccept: %s\r\n\r\n", mimeEvents)
	go func() { _, _ = io.WriteString(conn, strings.Repeat(request, 4000)) }()
	eventually(t, "the connection is open", func() bool { return p.conns.count() == 1 })
	eventually(t, "the connection is closed", func() bool { return p.conns.count() == 0 })
	p.send(t, call{path: "/api/randoms?cant=1000000"}).want(t, http.StatusOK)
}

// A panic while events are read breaks off that stream, and not the process.
func TestDrawStreamPanic(t *testing.T) {
	var log strings.Builder
	broken := &drawStream{site: &Site{log: slog.New(slog.NewTextHandler(&log, nil))}, client: context.Background(), status: 200}
	if n, err := broken.Read(make([]byte, 100)); n != 0 || err != errStreamPanic {
		t.Errorf("%d bytes, %v", n, err)
	}
	if !strings.Contains(log.String(), "panic in an event stream") || broken.status != http.StatusInternalServerError {
		t.Errorf("status %d, log %q", broken.status, log.String())
	}
}
