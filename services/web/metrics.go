package web

import (
	"slices"
	"sync/atomic"
	"time"

	"github.com/gofiber/fiber/v2"

	"balanza/services/metrics"
)

// bucketBounds are the upper bounds of the histogram's buckets in seconds; the last bucket has none.
var bucketBounds = [...]float64{0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10}

// requestMetrics counts requests by route. Every series exists from the start, so all workers of a server have the same
// ones, and counting a request is three atomic additions.
type requestMetrics []*routeMetrics

// routeMetrics are the counters of a method and a route. Requests update them without a lock.
type routeMetrics struct {
	method, path string
	classes      [6]atomic.Int64 // answers by the first digit of their status
	buckets      [len(bucketBounds) + 1]atomic.Int64
	nanoseconds  atomic.Int64
}

// route adds the counters of a route. All routes are added before the first request.
func (m *requestMetrics) route(method, path string) *routeMetrics {
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

// answered is how many requests of the route this process has answered.
func (r *routeMetrics) answered() (n int64) {
	for class := range r.classes {
		n += r.classes[class].Load()
	}
	return n
}

// Answered returns how many requests this process has answered. While it stays the same, so do the counters, and a
// heartbeat need not carry them.
func (s *Site) Answered() (n int64) {
	for _, r := range s.metrics {
		n += r.answered()
	}
	return n
}

// The families of the site. Answers are counted by the class of their status: with each status of each route every worker
// would have thousands of series.
var (
	httpRequests = metrics.Family{
		Name: "balanza_http_requests_total", Kind: metrics.Counter, Help: "Requests that the server has answered, by method, route and class of status.",
	}
	httpDuration = metrics.Family{
		Name: "balanza_http_request_duration_seconds", Kind: metrics.Histogram, Help: "Time from a request to its answer, by method and route.",
	}
	drawsRejected = metrics.Family{
		Name: "balanza_draws_rejected_total", Kind: metrics.Counter, Help: "Requests for random numbers that exceeded the limit of their address.",
	}
	workerRequests = metrics.Family{
		Name: "balanza_worker_requests_total", Kind: metrics.Counter,
		Help: "Requests that the worker's process has answered, without those of health checks and of Prometheus.",
	}
	openConnections = metrics.Family{Name: "balanza_connections", Kind: metrics.Gauge, Help: "Open connections of HTTP clients."}
	openWebsockets  = metrics.Family{Name: "balanza_websockets", Kind: metrics.Gauge, Help: "Open websockets."}
	drawsInFlight   = metrics.Family{Name: "balanza_draws_in_flight", Kind: metrics.Gauge, Help: "Requests for random numbers that are being drawn."}
)

// classLabels are the values of the label code, by the first digit of the status.
var classLabels = [...]string{1: "1xx", 2: "2xx", 3: "3xx", 4: "4xx", 5: "5xx"}

// isHealthCheck tells whether a path is for supervisors and Prometheus.
func isHealthCheck(path string) bool {
	return path == "/healthz" || path == "/readyz" || path == "/metrics"
}

// Requests returns how many requests of clients this process has answered: none of health checks or of Prometheus.
func (s *Site) Requests() (n int64) {
	for _, r := range s.metrics {
		if !isHealthCheck(r.path) {
			n += r.answered()
		}
	}
	return n
}

// Counters returns this process's counters as Prometheus series → value. All of them only grow, so sums over processes
// are counters, too.
func (s *Site) Counters() metrics.Values { return s.counters().Values }

// counters are those of Counters with their families. Times are in seconds.
func (s *Site) counters() (all metrics.Snapshot) {
	all.Set(drawsRejected, float64(s.drawsRejected.Load()))
	for _, r := range s.metrics {
		for class := 1; class < len(r.classes); class++ {
			all.Set(httpRequests, float64(r.classes[class].Load()), "method", r.method, "route", r.path, "code", classLabels[class])
		}
		var counts [len(bucketBounds) + 1]int64
		for i := range r.buckets {
			counts[i] = r.buckets[i].Load()
		}
		all.SetHistogram(httpDuration, bucketBounds[:], counts[:], time.Duration(r.nanoseconds.Load()).Seconds(),
			"method", r.method, "route", r.path)
	}
	return all
}

// Metrics returns the counters with their families, and what is this process's alone.
func (s *Site) Metrics() (counters, own metrics.Snapshot) {
	for class := 1; class < len(classLabels); class++ {
		var n int64
		for _, r := range s.metrics {
			if !isHealthCheck(r.path) {
				n += r.classes[class].Load()
			}
		}
		own.Set(workerRequests, float64(n), "code", classLabels[class])
	}
	own.Set(openConnections, float64(s.conns.count()))
	own.Set(openWebsockets, float64(s.Websockets()))
	own.Set(drawsInFlight, float64(s.drawing.Load()))
	return s.counters(), own
}

// errNoMetrics is for a scrape that the master does not answer in time: the counters of one process would be no answer
// for the server's.
var errNoMetrics = temporaryError("error.metrics")

// showMetrics answers in Prometheus' text format for the whole server, since a scrape reaches any of its workers.
func (s *Site) showMetrics(c *fiber.Ctx) error {
	text, err := s.config.Scrape()
	if err != nil {
		return errNoMetrics
	}
	c.Set(fiber.HeaderContentType, metrics.ContentType)
	return c.SendString(text)
}

// scrape is Config.Scrape of a process that has no master.
func (s *Site) scrape() (string, error) {
	all, own := s.Metrics()
	all.Merge(own)
	return all.Text(), nil
}
