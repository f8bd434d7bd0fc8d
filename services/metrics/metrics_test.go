package metrics

import (
	"os"
	"strings"
	"testing"
)

// The text has the families by name, buckets by their bounds, then sum and count, and escaped labels.
func TestText(t *testing.T) {
	var s Snapshot
	s.Set(Family{"b_total", Counter, "B."}, 2, "path", "a\\b\"c\nd,le=\"")
	s.Describe(Family{"empty", Gauge, "None."})
	h := Family{"a_seconds", Histogram, "A."}
	s.Describe(h)
	for _, le := range []string{"+Inf", "10", "2.5", "0.0005"} {
		s.set(Series("a_seconds_bucket", "route", "/", "le", le), 1)
	}
	s.set(Series("a_seconds_count", "route", "/"), 1)
	s.set(Series("a_seconds_sum", "route", "/"), 0.25)
	s.set("unknown_total", 1)
	const want = `# HELP a_seconds A.
# TYPE a_seconds histogram
a_seconds_bucket{route="/",le="0.0005"} 1
a_seconds_bucket{route="/",le="2.5"} 1
a_seconds_bucket{route="/",le="10"} 1
a_seconds_bucket{route="/",le="+Inf"} 1
a_seconds_sum{route="/"} 0.25
a_seconds_count{route="/"} 1
# HELP b_total B.
# TYPE b_total counter
b_total{path="a\\b\"c\nd,le=\""} 2
`
	if got := s.Text(); got != want {
		t.Errorf("got\n%s", got)
	}
}

// Merged series keep their values under their own labels and the new ones, and each group of a summary stays together.
func TestMerge(t *testing.T) {
	g := Family{"g_seconds", Summary, "G."}
	var all Snapshot
	for _, worker := range []string{"1", "2"} {
		var s Snapshot
		s.Set(g, 1, "quantile", "0.5")
		s.Set(g, 2, "quantile", "1")
		s.set("g_seconds_sum", 3)
		s.set("g_seconds_count", 4)
		all.Merge(s, "worker", worker)
	}
	const want = `# HELP g_seconds G.
# TYPE g_seconds summary
g_seconds{worker="1",quantile="0.5"} 1
g_seconds{worker="1",quantile="1"} 2
g_seconds_sum{worker="1"} 3
g_seconds_count{worker="1"} 4
g_seconds{worker="2",quantile="0.5"} 1
g_seconds{worker="2",quantile="1"} 2
g_seconds_sum{worker="2"} 3
g_seconds_count{worker="2"} 4
`
	if got := all.Text(); got != want {
		t.Errorf("got\n%s", got)
	}
}

// This process is measured, and one that does not exist has no series.
func TestProcess(t *testing.T) {
	p := Process(os.Getpid())
	if p.Values["process_resident_memory_bytes"] < 1<<20 || p.Values["process_open_fds"] < 3 ||
		p.Values["process_max_fds"] < 3 || p.Values["process_start_time_seconds"] < 1e9 || p.Values["process_virtual_memory_bytes"] < 1<<20 {
		t.Errorf("%v", p.Values)
	}
	if p := Process(1 << 30); len(p.Values) != 0 {
		t.Errorf("a process that does not exist: %v", p.Values)
	}
	r := Runtime("1.2.3")
	if text := r.Text(); !strings.Contains(text, `balanza_build_info{version="1.2.3",goversion="go`) || r.Values["go_goroutines"] < 1 {
		t.Errorf("%s", text)
	}
}
