package share

import (
	"math"
	"sync"
	"sync/atomic"
	"time"
)

const (
	// window is the time over which answers are a speed, and in which half of a lead is forgotten.
	window = 50 * time.Millisecond
	// minLead is how far ahead of another process a process may be at least before it ends connections.
	minLead = 4
	// lasting is the lead that is never forgotten. With less than minLead+1, slow clients on one connection would never be
	// moved.
	lasting = minLead + 1
	// busy is how many answers of all processes in a window make them busy: a lead of as many as a process answers in a
	// window is then due to the kernel, which lets one process run for milliseconds while the others wait, and a new
	// connection for each would cost more than it evens out. At 200 answers in all it is a lead of a few.
	busy = 2500
	// drawsPerAnswer is how many random numbers count as an answer. They cost more than that, but a process that draws has
	// other processors for its requests.
	drawsPerAnswer = 10_000_000
)

// balancer decides for one process which of its connections end, so that their next requests go to other processes.
type balancer struct {
	page *page
	row  *row

	next      atomic.Int64 // the process is not ahead while its sum is smaller
	windowEnd atomic.Int64 // as Unix time in nanoseconds

	mu    sync.Mutex // of what follows
	start int64      // answers when the window began
	last  int64      // answers in the window before
	limit int64      // a greater lead ends a connection
}

func newBalancer(p *page, i int) *balancer { return &balancer{page: p, row: &p.rows[i]} }

// answered counts n answers at a time, and reports whether the process is ahead of another one.
func (b *balancer) answered(n int, at time.Time) bool {
	answers := b.row.answers.Add(int64(n))
	b.row.resume()
	now := at.UnixNano()
	sum := answers + b.row.active.Load()
	if sum < b.next.Load() && now < b.windowEnd.Load() || !b.row.live.Load() || !b.mu.TryLock() {
		return false
	}
	defer b.mu.Unlock()
	b.page.level(at)
	if end := b.windowEnd.Load(); now >= end || now < end-int64(window) {
		b.last = 0
		if now < end+int64(window) {
			b.last = answers - b.start
		}
		b.start = answers
		b.windowEnd.Store(now + int64(window))
	}
	least, others := b.page.least(b.row)
	if others == 0 {
		b.next.Store(math.MaxInt64) // until the window ends
		return false
	}
	// The clients of connections that have just ended are on their way to other processes. Only a lead that grows
	// nevertheless ends more of them; else all clients of a process would leave it at once.
	lead := sum - least
	b.limit = max(maxLead(max(b.last, answers-b.start), others+1), min(b.limit, lead))
	if lead <= b.limit {
		b.next.Store(least + b.limit + 1)
		return false
	}
	b.limit = lead
	return true
}

// maxLead is how far ahead a process may be that has answered so many requests in a window, beside others that have
// answered as many.
func maxLead(answers, processes int64) int64 {
	speed := float64(answers*processes) / busy
	return minLead + max(answers/64, int64(float64(answers)*min(1, speed*speed)))
}

// level halves the leads of more than lasting in every window, whatever the processes do meanwhile.
func (p *page) level(at time.Time) {
	now, last := at.UnixNano(), p.leveled.Load()
	passed := now - last
	if passed >= 0 && passed < int64(window) || !p.leveled.CompareAndSwap(last, now) || last == 0 {
		return
	}
	highest := int64(math.MinInt64)
	for r := range p.live() {
		highest = max(highest, r.answers.Load())
	}
	kept := math.Exp2(-math.Abs(float64(passed)) / float64(window))
	for r := range p.live() {
		if excess := highest - r.answers.Load() - lasting; excess > 0 {
			r.answers.Add(excess - int64(float64(excess)*kept))
		}
	}
}

// draw counts random numbers that are being drawn until the caller calls ended.
func (b *balancer) draw(numbers int64) (ended func()) {
	cost := numbers / drawsPerAnswer
	b.row.active.Add(cost)
	return func() {
		b.row.active.Add(-cost)
		b.row.answers.Add(cost)
	}
}
