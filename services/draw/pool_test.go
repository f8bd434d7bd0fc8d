package draw

import (
	"slices"
	"testing"
	"time"
)

// wait until p's threads have found nothing left to draw.
func (p *pool) wait(t *testing.T) {
	t.Helper()
	for range 2000 {
		p.mu.Lock()
		threads, turns := p.threads, len(p.turns)
		p.mu.Unlock()
		if threads == 0 && turns == 0 {
			return
		}
		time.Sleep(time.Millisecond)
	}
	t.Fatal("threads are left after the last draw")
}

// However much one job wants, the others' turns come between its chunks.
func TestTurns(t *testing.T) {
	p := &pool{threads: 1}
	big := &job{left: 10 * chunk, done: make(chan struct{})}
	small := &job{left: 2*chunk + 5, done: make(chan struct{})}
	p.turns = []*job{big}

	var order []int64
	take := func() {
		j, n := p.next()
		if j == small {
			n = -n
		}
		order = append(order, n)
	}
	take()
	take()
	p.turns = append(p.turns, small)
	for range 7 {
		take()
	}
	want := []int64{chunk, chunk, chunk, -chunk, chunk, -chunk, chunk, -5, chunk}
	if !slices.Equal(order, want) {
		t.Errorf("chunks, the small job's negative: %v, want %v", order, want)
	}
}

// A job is done when its last chunk is back, not when it is handed out; a thread without a chunk is gone.
func TestDone(t *testing.T) {
	p := &pool{threads: 2}
	j := &job{left: chunk + 1, done: make(chan struct{})}
	p.turns = []*job{j}
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
	p.put(j, new(tally))
	if done() {
		t.Error("done while a chunk is out")
	}
	p.put(j, new(tally))
	if !done() {
		t.Error("not done with all chunks back")
	}
}
