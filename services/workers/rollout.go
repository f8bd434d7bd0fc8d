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
	order    string        // Reload, Restart, Scale or Update of package control, or recycleOrder
	cause    string        // of recycleOrder
	count    int           // of workers, for Scale
	launch   *Launch       // for Update; nil once that has failed, and workers get the launch in force again
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
		s.reportReload(r, false)
		s.finishing = append(s.finishing, r)
		s.complete(r)
	}
	return true
}

// complete puts into force what a rollout has changed besides processes.
func (s *Server) complete(r *rollout) {
	switch {
	case r.err != nil:
	case r.order == control.Update:
		s.Launch = *r.launch
		s.removeSurplus(r, s.Count)
	case r.order == control.Scale:
		s.Count = r.count
	}
}

// begin decides which slots a rollout changes. A restart and a smaller number of workers drain processes first.
func (s *Server) begin(r *rollout) {
	s.reportReload(r, true)
	switch r.order {
	case control.Reload, control.Restart:
		s.generation++
		r.slots = slices.Clone(s.slots)
	case control.Update:
		s.generation++
		r.slots = append(slices.Clone(s.slots[:min(len(s.slots), r.launch.Count)]), s.newSlots(r.launch.Count)...)
	case control.Scale:
		r.slots = s.newSlots(r.count)
		s.removeSurplus(r, r.count)
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

// newSlots returns the slots that are missing to a number of workers.
func (s *Server) newSlots(count int) (missing []*workerSlot) {
	for n := len(s.slots) + 1; n <= count; n++ {
		missing = append(missing, &workerSlot{number: n})
	}
	return missing
}

// removeSurplus drains the workers above a number.
func (s *Server) removeSurplus(r *rollout, count int) {
	kept := min(len(s.slots), count)
	for _, surplus := range s.slots[kept:] {
		surplus.cancelRetry()
		surplus.setImage(nil)
		if surplus.current != nil {
			s.drainOld(r, surplus.current)
		}
	}
	s.slots = s.slots[:kept]
}

// reportReload tells Reloading that a rollout begins or has ended, if it is a reload, a restart or an update.
func (s *Server) reportReload(r *rollout, begins bool) {
	if s.Reloading != nil && (r.order == control.Reload || r.order == control.Restart || r.order == control.Update) {
		s.Reloading(begins)
	}
}

// startSuccessor starts a process for the rollout's next slot.
func (s *Server) startSuccessor(r *rollout) {
	slot := r.slots[0]
	r.slots = r.slots[1:]
	launch, generation, image := s.Launch, s.generation, (*os.File)(nil)
	switch {
	case r.order == recycleOrder:
		if slot.current != r.only || r.only.draining {
			return
		}
		launch, generation, image = slot.launch, slot.generation, slot.image
	case r.launch != nil:
		launch = *r.launch
	case r.order == control.Restart:
		slot.restarts++ // before the process starts, which is told
	}
	if !slices.Contains(s.slots, slot) {
		s.slots = append(s.slots, slot)
	}
	slot.cancelRetry()
	p, err := s.spawn(slot, launch, generation, image, true)
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
		slot.current, slot.next, slot.failures, slot.cause = p, nil, nil, ""
		if predecessor != nil {
			s.drainOld(r, predecessor)
		}
	}
	slot.launch = p.launch
	slot.generation, slot.disabled, slot.notReady, slot.died = p.generation, false, 0, Predecessor{}
	if p.image != nil {
		slot.setImage(p.image)
		p.image = nil
	}
	slot.quota = p.launch.requestQuota()
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
	r.err, r.slots, r.starting = cmp.Or(r.err, err), nil, nil
	if slot.generation == 0 { // it was to be added
		s.slots = slices.DeleteFunc(s.slots, func(other *workerSlot) bool { return other == slot })
	}
	switch {
	case r.launch != nil:
		s.rollBack(r)
	case r.order == control.Update:
		s.Logger.Error("worker not rolled back", "server", s.Name, "worker", slot.number, "cause", err)
	case r.order == recycleOrder:
		s.Logger.Error("worker not replaced", "server", s.Name, "worker", slot.number, "cause", err)
		r.only.recycleAfter = time.Now().Add(maxBackoff)
	}
	for _, slot := range empty {
		s.fill(slot)
	}
}

// rollBack makes a rollout give the launch in force to the workers that it has moved to another one.
func (s *Server) rollBack(r *rollout) {
	r.launch = nil
	s.removeSurplus(r, s.Count)
	for _, slot := range s.slots {
		if slot.generation == s.generation {
			r.slots = append(r.slots, slot)
		}
	}
	s.generation++
}

// abortRollouts answers all rollouts, since the server stops.
func (s *Server) abortRollouts() {
	if s.rollout != nil {
		s.reportReload(s.rollout, false)
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
