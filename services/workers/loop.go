package workers

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"balanza/services/workers/control"
	"balanza/services/workers/descendants"
)

// maxTick is the longest time between two checks of the workers' deadlines.
const maxTick = 250 * time.Millisecond

// Run starts the workers, answers on the control socket and keeps the workers alive until ctx ends, or until the server
// is told to stop or to delete itself; then it drains them and returns nil. It returns an error when the control socket
// cannot be had, and, unless KeepStopped is set, when no worker can be started.
func (s *Server) Run(ctx context.Context) error {
	if s.Programs {
		adoptOrphans(s.Logger)
	}
	stopControl, err := control.Serve(s.ControlDir, s.Name, s)
	if err != nil {
		close(s.ended)
		if s.socket != nil {
			s.socket.Close()
		}
		return err
	}
	defer stopControl()
	defer close(s.ended)
	s.start()
	tick := time.NewTicker(min(s.HeartbeatTimeout/5, maxTick))
	defer tick.Stop()
	done := ctx.Done()
	for {
		select {
		case c := <-s.commands:
			s.handleCommand(c)
		case reply := <-s.questions:
			reply <- s.status()
		case reply := <-s.scrapes:
			s.addScrape(func(m serverMetrics) { reply <- m })
		case e := <-s.events:
			s.handleEvent(e)
		case <-tick.C:
			s.check(time.Now())
		case <-s.nextRetry():
			s.retryDue(time.Now())
		case <-s.scrapeDeadline:
			s.endScrape()
		case err := <-s.front.failed():
			s.stop(fmt.Errorf("the port cannot be served any more: %w", err))
		case <-done:
			done = nil
			s.quit = true
			s.stop(nil)
		}
		s.advance()
		if s.stopping && len(s.processes) == 0 && s.front.hasEnded() {
			s.stopped()
			if s.quit {
				return s.failure
			}
		}
		if s.quit && !s.running { // it was stopped before
			return nil
		}
	}
}

// start begins with new workers on a socket that is bound.
func (s *Server) start() {
	s.running = true
	s.started, s.checked = time.Now(), time.Now()
	s.failure, s.wasReady, s.generation = nil, false, 1
	s.retired, s.reported = map[string]float64{}, nil
	s.slots = nil
	if s.NewFront != nil {
		s.front = startFront(s.NewFront(), s.socket, func() { s.post(event{}) })
	}
	for n := range s.Count {
		s.slots = append(s.slots, &workerSlot{number: n + 1, generation: s.generation, launch: s.Launch})
	}
	for _, slot := range s.slots {
		s.fill(slot)
	}
}

// handleCommand carries out an order, or queues it where it takes longer.
func (s *Server) handleCommand(c command) {
	switch {
	case c.order == killOrder:
		s.stop(nil)
		s.front.abandon()
		for p := range s.processes {
			s.kill(p, "killed by a second signal")
		}
		c.reply <- nil
	case c.order == control.Stop, c.order == control.Delete:
		s.quit = s.quit || c.order == control.Delete
		if !s.running {
			c.reply <- nil
			return
		}
		s.stop(nil)
		s.onStopped = append(s.onStopped, c.reply)
	case !s.running && (c.order == control.Start || c.order == control.Restart):
		c.reply <- s.startAgain()
	case !s.running:
		c.reply <- fmt.Errorf("%s is stopped", s.Name)
	case c.order == control.Start && s.stopping:
		s.onRestart = append(s.onRestart, c.reply)
	case c.order == control.Start:
		c.reply <- nil
	case s.stopping:
		c.reply <- ErrStopping
	case c.order == control.Scale && s.Single && c.count != 1:
		c.reply <- errScaleFork
	case c.order == control.Scale && checkCount(c.count) != nil:
		c.reply <- checkCount(c.count)
	default:
		s.enqueue(c)
	}
}

// enqueue queues a rollout.
func (s *Server) enqueue(c command) {
	if c.order == control.Restart && s.Programs {
		switch {
		case !s.Unbound:
			c.order = control.Reload
		case s.Check != nil:
			if err := s.Check(); err != nil {
				c.reply <- fmt.Errorf("not restarted: %w", err)
				return
			}
		}
	}
	s.queue = append(s.queue, &rollout{order: c.order, count: c.count, launch: c.launch, reply: c.reply})
}

// startAgain starts a stopped server.
func (s *Server) startAgain() error {
	if s.quit {
		return fmt.Errorf("%s is ending", s.Name)
	}
	err := s.bind()
	if err == nil {
		s.start()
	}
	return err
}

// stop begins to drain everything; why is the server's failure, nil when it was told to stop.
func (s *Server) stop(why error) {
	if s.stopping || !s.running {
		return
	}
	s.stopping, s.failure = true, why
	cause := control.Stop
	if why != nil {
		cause = why.Error()
	}
	if s.socket != nil {
		s.socket.StopListening()
	}
	s.front.stop()
	s.abortRollouts()
	for _, slot := range s.slots {
		slot.cancelRetry()
	}
	for p := range s.processes {
		s.drain(p, false, cause)
	}
}

// stopped ends a stop: all processes have ended.
func (s *Server) stopped() {
	for _, slot := range s.slots {
		slot.setImage(nil)
	}
	if s.socket != nil {
		s.socket.Close()
	}
	s.running, s.socket, s.front, s.slots, s.stopping = false, nil, nil, nil, false
	s.quit = s.quit || !s.KeepStopped
	if s.failure != nil && !s.quit {
		s.Logger.Error("server ended", "server", s.Name, "cause", s.failure)
	}
	for _, reply := range s.onStopped {
		reply <- nil
	}
	restarts := s.onRestart
	s.onStopped, s.onRestart = nil, nil
	for _, reply := range restarts {
		if !s.running {
			reply <- s.startAgain()
		} else {
			reply <- nil
		}
	}
}

// handleEvent reacts to a worker's message or to the end of its process.
func (s *Server) handleEvent(e event) {
	p := e.process
	if !s.processes[p] {
		return // an in-process worker that was killed, and ends only now, or the end of the front
	}
	slot := s.slotOf(p)
	switch {
	case e.exited:
		s.onExit(p, e.exit)
	case e.Ready && !p.ready && !p.draining:
		p.ready, p.heartbeat, p.deadline = true, time.Now(), time.Time{}
		s.wasReady = true
		if p.address = e.Address; s.front != nil {
			s.front.Add(p.address)
		}
		if slot != nil {
			s.promote(slot, p)
		}
	case e.Heartbeat != nil:
		p.heartbeat, p.unhealthy = time.Now(), ""
		p.merge(*e.Heartbeat)
		if slot != nil && slot.current == p && slot.quota > 0 && p.requests >= slot.quota {
			s.recycle(slot, "request limit reached")
		}
	case e.Draining && !s.stopping:
		// Its replacement does not wait until it has drained.
		s.drain(p, true, "signal")
		if slot != nil && slot.current == p {
			s.Logger.Info("worker received a signal to end, replacing it", "server", s.Name, "worker", p.slot, "pid", p.pid())
			slot.current = nil
			slot.restarts++
			s.fill(slot)
		}
	case e.Ask != nil && e.Ask.Text:
		s.addScrape(func(m serverMetrics) {
			go func() { _ = p.send(message{Totals: &totals{ID: e.Ask.ID, Text: m.text()}}) }()
		})
	case e.Ask != nil:
		p.merge(Heartbeat{Counters: e.Ask.Counters})
		go func(all map[string]float64) { _ = p.send(message{Totals: &totals{Counters: all}}) }(s.totals())
	case e.Report != nil:
		s.onReport(p, *e.Report)
	case e.Program != 0:
		p.program = e.Program
	case e.Failed != "":
		p.failure, p.explained = e.Failed, e.Explained
	case e.Warning != "":
		s.Logger.Warn("program: "+e.Warning, "server", s.Name, "worker", p.slot, "pid", p.pid())
	case e.Degraded != nil:
		p.degraded = *e.Degraded
	case e.Unhealthy != "":
		p.unhealthy = e.Unhealthy
	case e.Extend > 0 && !p.deadline.IsZero():
		if later := time.Now().Add(e.Extend + programGrace); later.After(p.deadline) {
			p.deadline = later
		}
	}
}

// check kills processes whose deadline or heartbeat has passed, and replaces workers that have grown too large.
func (s *Server) check(now time.Time) {
	suspended := now.Sub(s.checked) > s.HeartbeatTimeout/2 // the master itself was, so heartbeats may wait unread
	s.checked = now
	for p := range s.processes {
		if suspended {
			p.heartbeat = now
		}
		switch {
		case !p.deadline.IsZero() && now.After(p.deadline):
			s.kill(p, p.deadlineCause)
		case p.conn != nil && p.ready && now.Sub(p.heartbeat) > p.launch.HeartbeatTimeout:
			why := fmt.Sprintf("no heartbeat for %v", p.launch.HeartbeatTimeout)
			if p.unhealthy != "" {
				why = fmt.Sprintf("unhealthy for %v: %s", p.launch.HeartbeatTimeout, p.unhealthy)
			}
			s.kill(p, why)
		}
	}
	tree := sync.OnceValue(descendants.Snapshot) // one reading of all processes serves all workers
	for _, slot := range s.slots {
		if p := slot.current; p != nil && p.ready && p.cmd != nil && p.launch.MaxMemory > 0 {
			if size := s.residentMemory(p, tree); size > p.launch.MaxMemory {
				s.recycle(slot, fmt.Sprintf("%d MiB of memory, more than the limit", size>>20))
			}
		}
	}
}

// post sends an event to Run's goroutine.
func (s *Server) post(e event) {
	select {
	case s.events <- e:
	case <-s.ended:
	}
}

// onExit removes a process that has ended, and fills its place.
func (s *Server) onExit(p *process, exit error) {
	slot := s.slotOf(p)
	p.sample()
	for series, n := range p.counters {
		s.retired[series] += n
	}
	delete(s.processes, p)
	s.awaitNoReport(p)
	if p.row >= 0 {
		s.socket.Leave(p.row)
	}
	if s.front != nil && p.address != "" {
		s.front.Remove(endedContext, p.address)
	}
	if p.image != nil {
		p.image.Close()
	}
	p.exit = exit
	p.explainKill(ownMemory())
	switch {
	case s.stopping:
		if p.cmd == nil && s.failure == nil {
			s.failure = exit
		}
	case slot == nil:
	case slot.next == p:
		slot.next = nil
		s.rolloutFailed(slot, fmt.Errorf("worker %d: the new process did not get ready: %s", slot.number, p.cause()))
	case p.cmd == nil: // the only process of a FORK server is this one
		s.stop(errors.New("the server ended: " + p.cause()))
	default:
		slot.current, slot.died = nil, p.asPredecessor()
		slot.restarts++
		s.Logger.Warn("worker died", "server", s.Name, "worker", p.slot, "pid", p.pid(), "cause", p.cause())
		switch {
		case slot.next != nil: // its successor is about to be ready
			slot.cause = p.cause()
		case p.ready && time.Since(p.started) >= stableAfter:
			slot.cause = p.cause()
			s.fill(slot)
		default:
			s.scheduleRetry(slot, p.cause(), p.ready)
		}
	}
}
