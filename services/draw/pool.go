package draw

import (
	"math"
	"runtime"
	"slices"
	"sync"
	"time"
)

// chunk is how many draws a thread makes for a job before it goes on with the next job: about half a millisecond.
const chunk = 1_000_000

// pool draws for all jobs of the process, one chunk of each in turn, on at most one thread for each processor. The
// threads exist only while there is something to draw.
//
// They are threads of the operating system and not only goroutines, because only the system can take a processor away
// at the very moment when more urgent work is ready: see lowPriority. A goroutine yields after 10 ms, and network
// connections that are ready wait until then.
type pool struct {
	mu      sync.Mutex
	jobs    []*job // with draws that no thread has yet, the next one first
	threads int

	once       sync.Once
	maxThreads int
	rest       float64 // how long a thread sleeps after a chunk, as a multiple of the chunk's time
}

// job is a histogram being drawn. Its pool's mutex guards it.
type job struct {
	pool      *pool
	remaining int64 // draws that no thread has yet
	drawing   int   // chunks that threads have
	counts    Counts
	done      chan struct{}
}

// sharedPool draws for the whole process.
var sharedPool pool

// start adds a job of n draws, and the threads that it needs.
func (p *pool) start(n int64) *job {
	p.once.Do(p.setLimits)
	j := &job{pool: p, remaining: n, done: make(chan struct{})}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.jobs = append(p.jobs, j)
	for range min((n+chunk-1)/chunk, int64(p.maxThreads-p.threads)) {
		p.threads++
		go p.thread()
	}
	return j
}

// stop takes a job out of those that have draws left.
func (p *pool) stop(j *job) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.jobs = slices.DeleteFunc(p.jobs, func(other *job) bool { return other == j })
}

// setLimits decides how many threads may draw, and raises GOMAXPROCS by their number: a drawing thread keeps its place in
// Go's scheduler even while the system has taken the processor from it.
func (p *pool) setLimits() {
	cores := runtime.GOMAXPROCS(0)
	p.maxThreads, p.rest = limits(runtime.NumCPU(), cores, quota("/sys/fs/cgroup"))
	runtime.GOMAXPROCS(cores + p.maxThreads)
}

// limits returns how many threads may draw, and how long each sleeps after a chunk, as a multiple of the chunk's time.
// Without a CPU quota that is a thread for each processor that Go uses, and no sleep. With one they use three quarters of
// it: the system stops the whole process, whatever its threads' priorities, when the quota of a period is used up.
func limits(processors, cores int, quota float64) (threads int, rest float64) {
	if quota == 0 || quota >= float64(processors) {
		return cores, 0
	}
	threads = min(cores, int(math.Ceil(quota)))
	return threads, max(0, float64(threads)/(0.75*quota)-1)
}

// thread draws until there is nothing left to draw. It never unlocks its system thread, which therefore ends with it and
// does not run other goroutines with its low priority.
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
		p.complete(j, &t)
		time.Sleep(time.Duration(p.rest * float64(time.Since(start))))
	}
}

// next returns the first job and the size of its next chunk. When there is no job, the calling thread must end.
func (p *pool) next() (*job, int64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.jobs) == 0 {
		p.threads--
		return nil, 0
	}
	j := p.jobs[0]
	p.jobs = p.jobs[1:]
	n := min(j.remaining, chunk)
	j.remaining -= n
	j.drawing++
	if j.remaining > 0 {
		p.jobs = append(p.jobs, j)
	}
	return j, n
}

// complete adds a chunk that was drawn to its job.
func (p *pool) complete(j *job, t *tally) {
	p.mu.Lock()
	defer p.mu.Unlock()
	t.addTo(&j.counts)
	j.drawing--
	if j.drawing == 0 && j.remaining == 0 {
		close(j.done)
	}
}
