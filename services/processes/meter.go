package processes

import (
	"math"
	"slices"
	"time"

	"balanza/services/store"
)

const (
	// window is the time whose requests the percentiles describe.
	window = 10 * time.Second
	// memoryInterval is the time between two looks at the memory: the kernel goes through all pages for it.
	memoryInterval = restInterval
	// early is how much less than a whole interval may have passed between two records.
	early = panelInterval / 2
)

// meter makes the numbers of a record out of samples.
type meter struct {
	bounds   []float64
	recent   []snapshot // the last ones, oldest first: at least one, and one that is as old as window, if there is
	history  history
	memory   int64
	memoryAt time.Time
}

// snapshot is what had been counted at a moment.
type snapshot struct {
	at       time.Time
	requests int64
	buckets  []int64
	cpu      time.Duration
}

// newMeter begins with a process that has answered nothing.
func newMeter(bounds []float64) *meter {
	return &meter{
		bounds: bounds, recent: []snapshot{{at: time.Now(), cpu: cpuTime(), buckets: make([]int64, len(bounds)+1)}},
	}
}

// measure sets the numbers of a record. now is the time by the store's clock, to which the steps of the history belong.
func (m *meter) measure(p *store.Process, s Sample, now time.Time) {
	current := snapshot{time.Now(), s.Requests, s.Buckets, cpuTime()}
	last := m.recent[len(m.recent)-1]
	for _, before := range slices.Backward(m.recent) {
		// A shorter time than that, after Update, says little.
		if seconds := current.at.Sub(before.at).Seconds(); seconds >= early.Seconds() {
			p.Rate = round(float64(current.requests-before.requests)/seconds, 100)
			p.CPU = round(100*(current.cpu-before.cpu).Seconds()/seconds, 10)
			break
		}
	}
	for len(m.recent) > 1 && current.at.Sub(m.recent[1].at) >= window-early {
		m.recent = m.recent[1:]
	}
	counts := difference(current.buckets, m.recent[0].buckets)
	p.P50, p.P99 = m.percentile(counts, 0.5), m.percentile(counts, 0.99)
	m.recent = append(m.recent, current)

	m.history.add(stepOf(now), current.requests-last.requests, difference(current.buckets, last.buckets), m)
	p.History = m.history.encode()
	if current.at.Sub(m.memoryAt) >= memoryInterval-early {
		m.memory, m.memoryAt = privateMemory(), current.at
	}
	p.Memory = m.memory
	p.Requests, p.Errors, p.Draws = s.Requests, s.Errors, s.Draws
	p.Connections, p.Websockets, p.Panels = s.Connections, s.Websockets, s.Panels
}

// difference returns how much each count has grown.
func difference(counts, before []int64) []int64 {
	grown := make([]int64, len(counts))
	for i := range counts {
		grown[i] = counts[i] - before[i]
	}
	return grown
}

// percentile estimates a quantile of the durations in a histogram, as if those of a bucket were evenly distributed in it. In
// the last bucket, which has no upper bound, it is the lower one. Without any duration it is 0.
func (m *meter) percentile(counts []int64, quantile float64) time.Duration {
	var total, below int64
	for _, n := range counts {
		total += n
	}
	rank := quantile * float64(total)
	lower := 0.0
	for i, n := range counts[:len(m.bounds)] {
		if n > 0 && float64(below+n) >= rank {
			seconds := lower + (m.bounds[i]-lower)*(rank-float64(below))/float64(n)
			return time.Duration(seconds * float64(time.Second))
		}
		below += n
		lower = m.bounds[i]
	}
	if total == 0 {
		return 0
	}
	return time.Duration(lower * float64(time.Second))
}

// round rounds to a fraction: 10 gives one decimal.
func round(x, fraction float64) float64 { return math.Round(x*fraction) / fraction }
