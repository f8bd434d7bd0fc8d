package workers

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"syscall"
	"time"
)

// workerSlot is a worker's position in its server: it stays while the processes in it change.
type workerSlot struct {
	number     int      // 1, 2 …
	generation int      // of the code that serves in it; 0: none did yet, in a slot that is about to be added
	launch     Launch   // of that code
	current    *process // serves, or is the first to
	next       *process // its successor, until that is ready
	restarts   int
	cause      string      // why the last process died; empty once a rollout has replaced its successor
	died       Predecessor // it, until another one is ready
	image      *os.File    // the binary of the code that was ready last
	quota      int64       // requests after which the current process is replaced; 0: none

	failures []time.Time // recent deaths that came too early
	notReady int         // how many processes in a row died before they were ready
	disabled bool        // it gets no process until the next reload or restart
	retryAt  time.Time   // zero: no retry is scheduled
}

const (
	// stableAfter is how long a worker must have served for its death not to be followed by a pause, except the slot's
	// first one.
	stableAfter = 500 * time.Millisecond
	minBackoff  = 50 * time.Millisecond
	// maxServedBackoff is for workers that could serve: they are missed more than those that cannot even start.
	maxServedBackoff = time.Second
	maxBackoff       = 5 * time.Second
	// temporaryBackoff is for processes that the system could not start.
	temporaryBackoff = time.Second
	// A slot in which maxFailures processes did not get ready within failureWindow is disabled.
	maxFailures   = 10
	failureWindow = time.Minute
)

// slotOf returns the slot of a process, nil when the process has none any more.
func (s *Server) slotOf(p *process) *workerSlot {
	for _, slot := range s.slots {
		if slot.current == p || slot.next == p {
			return slot
		}
	}
	return nil
}

// fill starts a process in an empty slot, with the code that served there last.
func (s *Server) fill(slot *workerSlot) {
	slot.cancelRetry()
	if s.stopping || slot.current != nil || slot.generation == 0 {
		return
	}
	if p, err := s.spawn(slot, slot.launch, slot.generation, slot.image, false); err != nil {
		s.spawnFailed(slot, err)
	} else {
		slot.current = p
	}
}

// spawnFailed plans the next attempt in a slot whose process could not be started. A lack of descriptors, memory or
// processes says nothing about the program, so it is no reason to disable a slot that has served.
func (s *Server) spawnFailed(slot *workerSlot, err error) {
	temporary := errors.Is(err, syscall.EMFILE) || errors.Is(err, syscall.ENFILE) || errors.Is(err, syscall.ENOMEM) ||
		errors.Is(err, syscall.EAGAIN)
	if !temporary || !s.wasReady {
		s.scheduleRetry(slot, err.Error(), false)
		return
	}
	if slot.cause != err.Error() {
		s.Logger.Warn("worker cannot be started, trying again", "server", s.Name, "worker", slot.number, "cause", err)
	}
	slot.cause, slot.retryAt = err.Error(), time.Now().Add(temporaryBackoff)
}

// setImage keeps the binary of code that was ready: a crash brings back this code, whatever its path names by then.
func (s *workerSlot) setImage(image *os.File) {
	if s.image != nil {
		s.image.Close()
	}
	s.image = image
}

func (s *workerSlot) cancelRetry() { s.retryAt = time.Time{} }

// scheduleRetry plans the next attempt in a slot whose process died early or could not be started. served: the process
// was ready. The server stops when no slot has a chance left.
func (s *Server) scheduleRetry(slot *workerSlot, cause string, served bool) {
	now := time.Now()
	slot.cause = cause
	slot.failures = slices.DeleteFunc(append(slot.failures, now), func(t time.Time) bool { return now.Sub(t) > failureWindow })
	longest := maxBackoff
	if served {
		longest = maxServedBackoff
	} else {
		slot.notReady++
	}
	n := len(slot.failures)
	if slot.disabled = min(n, slot.notReady) >= maxFailures; slot.disabled {
		s.Logger.Error(fmt.Sprintf("worker disabled after %d failures, until the next reload", n), "server", s.Name,
			"worker", slot.number, "within", failureWindow.String(), "cause", cause)
	} else {
		slot.retryAt = now
		if !served || n > 1 {
			wait := min(minBackoff<<min(n-1, 20), longest)
			slot.retryAt = now.Add(wait/2 + rand.N(wait)) // so that workers that failed together do not retry together
		}
	}
	if !slices.ContainsFunc(s.slots, s.hasChance) {
		s.stop(fmt.Errorf("no worker of %s starts: %s", s.Name, cause))
	}
}

// hasChance tells whether a slot may still serve: it is not disabled, and its program is not one that never started.
func (s *Server) hasChance(slot *workerSlot) bool {
	return !slot.disabled && (s.wasReady || len(slot.failures) == 0 || slot.current != nil)
}

// nextRetry fires when the first of the scheduled retries is due; it is nil when there is none.
func (s *Server) nextRetry() <-chan time.Time {
	var first time.Time
	for _, slot := range s.slots {
		if !slot.retryAt.IsZero() && (first.IsZero() || slot.retryAt.Before(first)) {
			first = slot.retryAt
		}
	}
	if first.IsZero() {
		return nil
	}
	return time.After(time.Until(first))
}

// retryDue fills the slots whose retry is due.
func (s *Server) retryDue(now time.Time) {
	for _, slot := range s.slots {
		if !slot.retryAt.IsZero() && !now.Before(slot.retryAt) {
			s.fill(slot)
		}
	}
}

// requestQuota is MaxRequests give or take a tenth, so that workers that started together do not end together.
func (l *Limits) requestQuota() int64 {
	if l.MaxRequests == 0 {
		return 0
	}
	return max(1, l.MaxRequests+int64((rand.Float64()-0.5)/5*float64(l.MaxRequests)))
}
