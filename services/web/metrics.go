package web

import (
	"fmt"
	"maps"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/gofiber/fiber/v2"
)

// bucketBounds are the upper bounds of the histogram's buckets in seconds; the last bucket has none.
var bucketBounds = [...]float64{0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10}

// metrics counts requests by route. Every series exists from the start, so all workers of a server have the same ones,
// and counting a request is three atomic additions. (Prometheus' own client takes 2 MB more in each worker.)
type metrics []*routeMetrics

// routeMetrics are the counters of a method and a route. Requests update them without a lock.
type routeMetrics struct {
	method, path string
	classes      [6]atomic.Int64 // answers by the first digit of their status
	buckets      [len(bucketBounds) + 1]atomic.Int64
	nanoseconds  atomic.Int64
}

// route adds the counters of a route. All routes are added before the first request.
func (m *metrics) route(method, path string) *routeMetrics {
	r := &routeMetrics{method: method, path: path}
	*m = append(*m, r)
	return r
}

// count counts an answer and the time it took.
func (r *routeMetrics) count(status int, took time.Duration) {
	bucket, _ := slices.BinarySearch(bucketBounds[:], took.Seconds())
	r.buckets[bucket].Add(1)
	r.nanoseconds.Add(int64(took))
	r.classes[status/100%6].Add(1) // last: a request that Answered counts is in all counters
}

// Answered returns how many requests this process has answered. While it stays the same, so do the counters, and a
// heartbeat need not carry them.
func (s *Site) Answered() (n int64) {
	for _, r := range s.metrics {
		for class := range r.classes {
			n += r.classes[class].Load()
		}
	}
	return n
}

// Counters returns this process's counters as Prometheus series → value. All of them only grow, so sums over processes
// are counters, too. Times are in seconds, and buckets are cumulative as in Prometheus' text format.
func (s *Site) Counters() map[string]float64 {
	all := make(map[string]float64)
	for _, r := range s.metrics {
		for class := 1; class < len(r.classes); class++ {
			all[fmt.Sprintf(`balanza_requests_total{method=%q,route=%q,status="%dxx"}`, r.method, r.path, class)] =
				float64(r.classes[class].Load())
		}
		var sum int64
		for i := range r.buckets {
			sum += r.buckets[i].Load()
			end := "+Inf"
			if i < len(bucketBounds) {
				end = strconv.FormatFloat(bucketBounds[i], 'g', -1, 64)
			}
			all[fmt.Sprintf(`balanza_request_seconds_bucket{method=%q,route=%q,le=%q}`, r.method, r.path, end)] = float64(sum)
		}
		labels := fmt.Sprintf(`{method=%q,route=%q}`, r.method, r.path)
		all["balanza_request_seconds_count"+labels] = float64(sum)
		all["balanza_request_seconds_sum"+labels] = time.Duration(r.nanoseconds.Load()).Seconds()
	}
	return all
}

// showMetrics answers in Prometheus' text format, version 0.0.4: the counters of the whole server, since a scrape reaches
// any of its workers, and the gauges of this process.
func (s *Site) showMetrics(c *fiber.Ctx) error {
	counters := s.Counters()
	if s.config.Totals != nil {
		counters = s.config.Totals(counters)
	}
	var b strings.Builder
	b.WriteString("# TYPE balanza_requests_total counter\n")
	writeFamily(&b, counters, "balanza_requests_total{")
	b.WriteString("# TYPE balanza_request_seconds histogram\n")
	writeFamily(&b, counters, "balanza_request_seconds_")

	p := s.config.Process
	labels := fmt.Sprintf(`{server=%q,worker="%d"}`, p.Server, p.Worker)
	for _, gauge := range []struct {
		name  string
		value float64
	}{
		{"balanza_resident_memory_bytes", float64(s.info.sample().RSS)},
		{"balanza_goroutines", float64(runtime.NumGoroutine())},
		{"balanza_connections", float64(s.conns.count())},
		{"balanza_websockets", float64(s.Websockets())},
		{"balanza_start_time_seconds", float64(p.Started.UnixMilli()) / 1000},
	} {
		fmt.Fprintf(&b, "# TYPE %[1]s gauge\n%[1]s%[2]s %[3]s\n", gauge.name, labels,
			strconv.FormatFloat(gauge.value, 'g', -1, 64))
	}
	c.Set(fiber.HeaderContentType, "text/plain; version=0.0.4; charset=utf-8")
	return c.SendString(b.String())
}

// writeFamily writes the series whose names begin with start, sorted.
func writeFamily(b *strings.Builder, series map[string]float64, start string) {
	for _, name := range slices.Sorted(maps.Keys(series)) {
		if strings.HasPrefix(name, start) {
			fmt.Fprintf(b, "%s %s\n", name, strconv.FormatFloat(series[name], 'g', -1, 64))
		}
	}
}
