package edge

import (
	"context"
	"log/slog"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync/atomic"
	"time"
)

const (
	// statusClientLeft stands in the access log, as in nginx's, for a request whose client left before the answer.
	statusClientLeft = 499
	// maxLoggedPath is how many bytes of a path the access log has.
	maxLoggedPath = 256
)

// DurationBounds are the upper bounds, in seconds, of Totals.Durations but its last number.
var DurationBounds = [...]float64{0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10}

// Totals are what a balancer has answered so far, its own answers included. The numbers only grow.
type Totals struct {
	// Requests are the answers by the first digit of their status: Requests[4] are those from 400 to 499. Requests[1] are
	// websockets that have ended, Requests[0] is not used.
	Requests [6]int64
	// Durations are the requests without websockets by the time from their header to the end of their answer: up to the bound
	// of the same index, and over the one before. The last number is of those over all bounds.
	Durations [len(DurationBounds) + 1]int64
	Seconds   float64 // the sum of those times
}

// totals counts what becomes Totals.
type totals struct {
	requests    [6]atomic.Int64
	durations   [len(DurationBounds) + 1]atomic.Int64
	nanoseconds atomic.Int64
}

// Totals returns the counters.
func (b *Balancer) Totals() Totals {
	var t Totals
	for i := range t.Requests {
		t.Requests[i] = b.totals.requests[i].Load()
	}
	for i := range t.Durations {
		t.Durations[i] = b.totals.durations[i].Load()
	}
	t.Seconds = time.Duration(b.totals.nanoseconds.Load()).Seconds()
	return t
}

// Answered returns the sum of Requests.
func (t Totals) Answered() (n int64) {
	for _, class := range t.Requests {
		n += class
	}
	return n
}

// add counts an answer.
func (t *totals) add(status int, took time.Duration) {
	t.requests[status/100].Add(1)
	if status == http.StatusSwitchingProtocols {
		return
	}
	bucket, _ := slices.BinarySearch(DurationBounds[:], took.Seconds())
	t.durations[bucket].Add(1)
	t.nanoseconds.Add(int64(took))
}

// end counts the request and writes its line. It is deferred, since an answer that breaks ends its handler by a panic. Of the
// URL the line has the path alone: a query may hold what is not meant for a log.
func (w *responseWriter) end() {
	took := time.Since(w.began)
	if w.status == 0 {
		w.status = statusClientLeft
	}
	w.b.totals.add(w.status, took)
	log := w.b.config.AccessLog
	if log == nil {
		return
	}
	client, _, _ := net.SplitHostPort(w.r.RemoteAddr) // net/http writes it
	path := w.r.URL.Path
	if len(path) > maxLoggedPath {
		path = strings.ToValidUTF8(path[:maxLoggedPath], "") + "…"
	}
	attributes := append(make([]slog.Attr, 0, 10),
		slog.String("request", w.r.Header.Get(requestID)), slog.String("client", client), slog.String("method", w.r.Method),
		slog.String("path", path), slog.Int("status", w.status), slog.Int64("bytes", w.bytes),
		slog.Float64("seconds", float64(took.Microseconds())/1e6))
	if a := w.answer; a != nil {
		attributes = append(attributes, slog.String("server", a.Header.Get("X-Balanza-Server")),
			slog.String("pid", a.Header.Get("X-Balanza-Pid")), slog.String("upstream", a.from.address))
	}
	log.LogAttrs(context.Background(), slog.LevelInfo, "request", attributes...)
}
