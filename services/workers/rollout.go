package workers

import (
	"cmp"
	"fmt"
	"os"
	"slices"
	"time"

	"balanza/services/workers/control"
)

// rollout is a change of the workers that takes several steps: a reload, a restart, a change of their number, or the
// replacement of a single worker. One is under way at a time. Run's loop advances it after every event: a successor is
// started, then the next step waits until that is ready (promote) or has failed (rolloutFailed).
type rollout struct {
	order    string        // Reload, Restart or Scale of package control, or recycleOrder
	cause    string        // of recycleOrder
	count    int           // of workers, for Scale
	only     *process      // for recycleOrder: nothing is done when its slot has another process by now
	slots    []*workerSlot // that still get a new process, in this order
	starting *process      // the successor that is not ready yet
	old      []*process    // predecessors, which drain
	err      error         // why it failed
	reply    chan<- error  // gets err when all predecessors have ended; nil for recycleOrder
}

// recycleOrder replaces one worker by another of the same code. The server gives it to itself.
const recycleOrder = "recycle"

// advance takes every step that is possible now, and answers the rollouts that are finished.
func (s *Server) advance() {
	for s.step() {
	}
	s.finishing = slices.DeleteFunc(s.finishing, func(r *rollout) bool {
		finished := !s.anyAlive(r.old)
		if finished && r.reply != nil {
			r.reply <- r.err
		}
		return finished
	})
}

// step takes one step of the rollout under way, or begins the next one. It returns false when there is nothing to do but
// wait for an event.
func (s *Server) step() bool {
	r := s.rollout
	switch {
	case s.stopping:
		return false
	case r == nil:
		// At most one generation drains when the next rollout begins, so that rollouts which follow each other faster
		// than requests end do not pile up processes.
		if len(s.queue) == 0 || s.draining() > len(s.slots) {
			return false
		}
		s.rollout, s.queue = s.queue[0], s.queue[1:]
		s.begin(s.rollout)
	case r.starting != nil, r.order == control.Restart && s.anyAlive(r.old):
		return false
	case len(r.slots) > 0:
		s.startSuccessor(r)
	default:
		s.rollout = nil
		s.finishing = append(s.finishing, r)
		if r.order == control.Scale && r.err == nil {
			s.Count = r.count
		}
	}
	return true
}

// begin decides which slots a rollout changes. A restart and a smaller number of workers drain processes first.
func (s *Server) begin(r *rollout) {
	switch r.order {
	case control.Reload, control.Restart:
		s.generation++
		r.slots = slices.Clone(s.slots)
	case control.Scale:
		for n := len(s.slots) + 1; n <= r.count; n++ {
			r.slots = append(r.slots, &workerSlot{number: n})
		}
		for _, surplus := range s.slots[min(len(s.slots), r.count):] {
			surplus.cancelRetry()
			surplus.setImage(nil)
			if surplus.current != nil {
				s.drainOld(r, surplus.current)
			}
		}
		s.slots = s.slots[:min(len(s.slots), r.count)]
	}
	if r.order == control.Restart {
		for _, slot := range s.slots {
			slot.cancelRetry()
			slot.current = nil
		}
		for p := range s.processes {
			s.drainOld(r, p)
		}
	}
}

// startSuccessor starts a process for the rollout's next slot.
func (s *Server) startSuccessor(r *rollout) {
	slot := r.slots[0]
	r.slots = r.slots[1:]
	generation, image := s.generation, (*os.File)(nil)
	switch r.order {
	case recycleOrder:
		if slot.current != r.only {
			return
		}
		generation, image = slot.generation, slot.image
	case control.Scale:
		s.slots = append(s.slots, slot)
	case control.Restart:
		slot.restarts++ // before the process starts, which is told
	}
	slot.cancelRetry()
	p, err := s.spawn(slot, generation, image)
	if err != nil {
		s.rolloutFailed(slot, fmt.Errorf("worker %d: the new process could not be started: %w", slot.number, err))
		return
	}
	slot.next, r.starting = p, p
}

// promote makes a process that is ready the current one of its slot. Its predecessor, if any, drains.
func (s *Server) promote(slot *workerSlot, p *process) {
	if slot.next == p {
		r := s.rollout
		r.starting = nil
		predecessor := slot.current
		slot.current, slot.next, slot.failures = p, nil, nil
		if predecessor != nil {
			s.drainOld(r, predecessor)
		}
	}
	slot.generation, slot.disabled, slot.notReady, slot.cause, slot.died = p.generation, false, 0, "", Predecessor{}
	if p.image != nil {
		slot.setImage(p.image)
		p.image = nil
	}
	slot.quota = s.requestQuota()
	s.Logger.Info("worker ready", "server", s.Name, "worker", slot.number, "pid", p.pid(), "generation", p.generation,
		"after", time.Since(p.started).Round(time.Millisecond).String())
}

// rolloutFailed ends the rollout under way, whose successor for slot could not be started or did not get ready. The
// predecessors that were not replaced yet stay. The slot gets a process of the old code if its predecessor has died
// meanwhile; after a restart, which has ended all predecessors, so do the slots that were to follow.
func (s *Server) rolloutFailed(slot *workerSlot, err error) {
	r := s.rollout
	empty := []*workerSlot{slot}
	if r.order == control.Restart {
		empty = append(empty, r.slots...)
	}
	r.err, r.slots, r.starting = err, nil, nil
	switch r.order {
	case control.Scale:
		s.slots = slices.DeleteFunc(s.slots, func(other *workerSlot) bool { return other == slot })
		return
	case recycleOrder:
		s.Logger.Error("worker not replaced", "server", s.Name, "worker", slot.number, "cause", err)
		r.only.recycleAfter = time.Now().Add(maxBackoff)
	}
	for _, slot := range empty {
		s.fill(slot)
	}
}

// abortRollouts answers all rollouts, since the server stops.
func (s *Server) abortRollouts() {
	if s.rollout != nil {
		s.queue = append(s.queue, s.rollout)
	}
	for _, r := range s.queue {
		if r.reply != nil {
			r.reply <- ErrStopping
		}
	}
	s.rollout, s.queue = nil, nil
}

// recycle queues the replacement of a slot's process by another of the same code.
func (s *Server) recycle(slot *workerSlot, why string) {
	p := slot.current
	if s.stopping || time.Now().Before(p.recycleAfter) {
		return
	}
	p.recycleAfter = time.Now().AddDate(1, 0, 0) // once is enough, unless it fails
	s.Logger.Info("worker to be replaced", "server", s.Name, "worker", slot.number, "pid", p.pid(), "cause", why)
	s.queue = append(s.queue, &rollout{order: recycleOrder, cause: why, only: p, slots: []*workerSlot{slot}})
}

func (s *Server) drainOld(r *rollout, p *process) {
	s.drain(p, true, cmp.Or(r.cause, r.order))
	r.old = append(r.old, p)
}

func (s *Server) anyAlive(old []*process) bool {
	return slices.ContainsFunc(old, func(p *process) bool { return s.processes[p] })
}

func (s *Server) draining() (n int) {
	for p := range s.processes {
		if p.draining {
			n++
		}
	}
	return n
}
