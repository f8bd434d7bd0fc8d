package draw

import (
	"context"
	"math"
	"runtime"
	"slices"
	"sync"
	"time"
)

// chunk is how many draws a thread makes, in about half a millisecond, before it looks whose turn it is.
const chunk = 1_000_000

// pool draws for every job in the process, in turns of a chunk each, on at most one thread for each processor. The
// threads are there only while there is something to draw.
//
// They are threads of the operating system and not just goroutines, because only the system can take a processor away
// at the very moment when something more urgent wakes up: see lowPriority. A goroutine gives way after 10 ms, and the
// ready network connections wait until then.
type pool struct {
	mu      sync.Mutex
	turns   []*job // those with draws to hand out, the next in turn first
	threads int

	first sync.Once
	most  int     // threads
	rest  float64 // how long a thread rests after a chunk, in the chunk's own time
}

// job is a histogram being drawn. Its pool's mutex guards it.
type job struct {
	left   int64 // draws not handed out yet
	out    int   // chunks handed out and not back yet
	counts Counts
	done   chan struct{}
}

var everyone pool

// do draws n numbers on the pool's threads.
func (p *pool) do(ctx context.Context, n int64) (*Counts, error) {
	p.first.Do(p.makeRoom)
	j := &job{left: n, done: make(chan struct{})}
	p.mu.Lock()
	p.turns = append(p.turns, j)
	for range min((n+chunk-1)/chunk, int64(p.most-p.threads)) {
		p.threads++
		go p.thread()
	}
	p.mu.Unlock()

	select {
	case <-j.done:
		return &j.counts, nil
	case <-ctx.Done():
		p.mu.Lock()
		p.turns = slices.DeleteFunc(p.turns, func(other *job) bool { return other == j })
		p.mu.Unlock()
		return nil, ctx.Err()
	}
}

// makeRoom lets Go run as many more goroutines at a time as there will be drawing threads: those hold on to their share
// of Go's scheduler even while the system has taken the processor from them.
func (p *pool) makeRoom() {
	cores := runtime.GOMAXPROCS(0)
	p.most, p.rest = pace(runtime.NumCPU(), cores, quota("/sys/fs/cgroup"))
	runtime.GOMAXPROCS(cores + p.most)
}

// pace says how many threads may draw, and how long each rests after a chunk, in the chunk's own time. Where no quota
// can be exceeded that is one for each processor that Go uses, and no rest. Elsewhere they take three quarters of the
// quota: once it is used up the system stops the whole process until its next period, whatever the priorities.
func pace(processors, cores int, quota float64) (threads int, rest float64) {
	if quota == 0 || quota >= float64(processors) {
		return cores, 0
	}
	threads = min(cores, int(math.Ceil(quota)))
	return threads, max(0, float64(threads)/(0.75*quota)-1)
}

// thread draws until there is nothing left to draw. It never unlocks its thread, which therefore ends with it and takes
// its low priority along.
func (p *pool) thread() {
	runtime.LockOSThread()
	lowPriority()
	for {
		j, n := p.next()
		if j == nil {
			return
		}
		start := time.Now()
		var t tally
		t.draw(n)
		p.put(j, &t)
		time.Sleep(time.Duration(p.rest * float64(time.Since(start))))
	}
}

// next hands out a chunk of the job whose turn it is. Without one the asking thread counts as gone.
func (p *pool) next() (*job, int64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.turns) == 0 {
		p.threads--
		return nil, 0
	}
	j := p.turns[0]
	p.turns = p.turns[1:]
	n := min(j.left, chunk)
	j.left -= n
	j.out++
	if j.left > 0 {
		p.turns = append(p.turns, j)
	}
	return j, n
}

// put takes a chunk back.
func (p *pool) put(j *job, t *tally) {
	p.mu.Lock()
	defer p.mu.Unlock()
	t.addTo(&j.counts)
	j.out--
	if j.out == 0 && j.left == 0 {
		close(j.done)
	}
}
