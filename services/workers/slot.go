package workers

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"time"
)

// slot is a worker's place; the process in it changes.
type slot struct {
	number     int
	generation int   // of the code that serves in it; 0: none did yet, in a slot that Scale is about to add
	current    *proc // serves, or is the first to
	next       *proc // its successor, until it is ready
	restarts   int
	cause      string   // why the last one died
	image      *os.File // the binary of the code that served last
	quota      int64    // requests after which the current one is replaced; 0: none

	failures []time.Time // recent deaths that came too early
	unready  int         // how many of them in a row never got ready
	errored  bool
	retry    *time.Timer
}

const (
	// stable is how long a worker must have served for its death not to be followed by a pause, except the slot's first.
	stable       = 500 * time.Millisecond
	firstBackoff = 50 * time.Millisecond
	// A worker that dies young, but could serve, is needed sooner than one that can't even start.
	servedBackoff = time.Second
	lastBackoff   = 5 * time.Second
	// A slot in which maxFailures processes did not get ready within failureWindow is given up, until the next reload
	// or restart.
	maxFailures   = 10
	failureWindow = time.Minute
)

// slot finds the place of a process, nil when it has none any more.
func (m *Master) slot(p *proc) *slot {
	for _, s := range m.slots {
		if s.current == p || s.next == p {
			return s
		}
	}
	return nil
}

// fill starts a worker in an empty slot, with the code that served there last.
func (m *Master) fill(s *slot) {
	s.calm()
	if m.stopping || s.current != nil || s.generation == 0 || !slices.Contains(m.slots, s) {
		return
	}
	if p, err := m.spawn(s, s.generation, s.image); err != nil {
		m.failed(s, err.Error(), false)
	} else {
		s.current = p
	}
}

// settle makes a process that is ready its slot's current one, and orders its predecessor, if any, to drain.
func (m *Master) settle(s *slot, p *proc) (predecessor *proc) {
	if s.next == p {
		predecessor, s.current, s.next = s.current, p, nil
		s.failures = nil
		if predecessor != nil {
			m.drain(predecessor, true)
		}
	}
	trimSoon()
	s.generation, s.errored, s.unready, s.cause = p.generation, false, 0, ""
	if p.image != nil {
		s.keep(p.image)
		p.image = nil
	}
	if m.MaxRequests > 0 {
		s.quota = max(1, m.MaxRequests+int64((rand.Float64()-0.5)/5*float64(m.MaxRequests)))
	}
	m.Logger.Info("worker ready", "server", m.Name, "worker", s.number, "pid", p.pid(), "generation", p.generation,
		"after", time.Since(p.started).Round(time.Millisecond).String())
	return predecessor
}

// keep holds on to the binary of code that was ready: that is what a crash brings back, whatever has become of its path.
func (s *slot) keep(image *os.File) {
	if s.image != nil {
		s.image.Close()
	}
	s.image = image
}

// calm gives up the slot's wait for its next try.
func (s *slot) calm() {
	if s.retry != nil {
		s.retry.Stop()
		s.retry = nil
	}
}

// bury takes a dead process out of the books and fills its place.
func (m *Master) bury(p *proc, exit error) {
	s := m.slot(p)
	p.sample()
	for series, n := range p.counters {
		m.retired[series] += n
	}
	delete(m.procs, p)
	if p.row >= 0 {
		m.turns.leave(p.row)
	}
	if p.image != nil {
		p.image.Close()
	}
	p.exit = exit
	defer close(p.done)
	switch {
	case m.stopping:
		if p.cmd == nil && m.failure == nil {
			m.failure = exit
		}
	case s == nil:
	case s.next == p:
		s.next = nil
		m.fill(s) // in case that its predecessor died meanwhile
	case p.cmd == nil: // FORK's one process is this one
		m.stop(errors.New("the server ended: " + p.cause()))
	default:
		s.current = nil
		s.restarts++
		m.Logger.Warn("worker died", "server", m.Name, "worker", p.slot, "pid", p.pid(), "cause", p.cause())
		switch {
		case s.next != nil: // its successor is on the way
			s.cause = p.cause()
		case p.ready && time.Since(p.started) >= stable:
			s.cause = p.cause()
			m.fill(s)
		default:
			m.failed(s, p.cause(), p.ready)
		}
	}
}

// failed plans the next try in a slot whose process died young, or could not be started. served: it was ready.
func (m *Master) failed(s *slot, cause string, served bool) {
	now := time.Now()
	s.cause = cause
	s.failures = slices.DeleteFunc(append(s.failures, now), func(t time.Time) bool { return now.Sub(t) > failureWindow })
	longest := lastBackoff
	if served {
		longest = servedBackoff
	} else {
		s.unready++
	}
	n := len(s.failures)
	if s.errored = min(n, s.unready) >= maxFailures; s.errored {
		m.Logger.Error("worker given up until the next reload", "server", m.Name, "worker", s.number,
			"failures", n, "within", failureWindow.String(), "cause", cause)
	} else {
		var wait time.Duration
		if !served || n > 1 {
			wait = min(firstBackoff<<min(n-1, 20), longest)
			wait = wait/2 + rand.N(wait) // so that workers that failed together do not try again together
		}
		s.retry = time.AfterFunc(wait, func() { _ = m.do(func() { m.fill(s) }) })
	}
	hopeless := func(s *slot) bool { return s.errored || !m.served && len(s.failures) > 0 && s.current == nil }
	if !slices.ContainsFunc(m.slots, func(s *slot) bool { return !hopeless(s) }) {
		m.stop(fmt.Errorf("no worker of %s starts: %s", m.Name, cause))
	}
}
