package draw

import (
	"slices"
	"testing"
	"time"
)

// wait waits until p's threads have ended for want of work.
func (p *pool) wait(t *testing.T) {
	t.Helper()
	for range 2000 {
		p.mu.Lock()
		threads, jobs := p.threads, len(p.jobs)
		p.mu.Unlock()
		if threads == 0 && jobs == 0 {
			return
		}
		time.Sleep(time.Millisecond)
	}
	t.Fatal("threads are left after the last draw")
}

// A large job does not delay the others: their chunks come between its own.
func TestJobsAlternate(t *testing.T) {
	p := &pool{threads: 1}
	big := &job{remaining: 10 * chunk, done: make(chan struct{})}
	small := &job{remaining: 2*chunk + 5, done: make(chan struct{})}
	p.jobs = []*job{big}

	var order []int64
	drawNext := func() {
		j, n := p.next()
		if j == small {
			n = -n
		}
		order = append(order, n)
	}
	drawNext()
	drawNext()
	p.jobs = append(p.jobs, small)
	for range 7 {
		drawNext()
	}
	want := []int64{chunk, chunk, chunk, -chunk, chunk, -chunk, chunk, -5, chunk}
	if !slices.Equal(order, want) {
		t.Errorf("chunks, the small job's negative: %v, want %v", order, want)
	}
}

// A job is done when its last chunk is complete, not when a thread has it; a thread without a chunk ends.
func TestDone(t *testing.T) {
	p := &pool{threads: 2}
	j := &job{remaining: chunk + 1, done: make(chan struct{})}
	p.jobs = []*job{j}
	done := func() bool {
		select {
		case <-j.done:
			return true
		default:
			return false
		}
	}
	p.next()
	p.next()
	if j, _ := p.next(); j != nil || p.threads != 1 {
		t.Fatalf("after the last chunk: job %v, %d threads", j, p.threads)
	}
	p.complete(j, new(tally))
	if done() {
		t.Error("done while a thread has a chunk")
	}
	p.complete(j, new(tally))
	if !done() {
		t.Error("not done with all chunks complete")
	}
}
