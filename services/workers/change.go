package workers

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"time"
)

// change takes the right to change the workers, which one caller has at a time. It waits until at most one generation
// drains, so that changes that follow each other faster than requests end do not pile up processes.
func (m *Master) change(ctx context.Context) (release func(), err error) {
	select {
	case m.changing <- struct{}{}:
		release = func() { <-m.changing }
	case <-m.over:
		return nil, ErrStopping
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	for {
		var draining []*proc
		most := 0
		err = m.do(func() {
			most = len(m.slots)
			for p := range m.procs {
				if p.draining {
					draining = append(draining, p)
				}
			}
			if m.stopping {
				err = ErrStopping
			}
		})
		if err == nil && len(draining) <= most {
			return release, nil
		}
		if err == nil {
			select {
			case <-draining[0].done:
			case <-ctx.Done():
				err = ctx.Err()
			}
		}
		if err != nil {
			release()
			return nil, err
		}
	}
}

// Reload replaces the workers one at a time by ones that run what the path names now, each only when its successor is
// ready, and returns when the old ones are gone. When a successor does not get ready, its predecessor and those after it
// stay, and the error says why. Concurrent calls wait for each other, but not for what each has left to drain. ctx limits
// the wait for the start; what has begun is carried through.
func (m *Master) Reload(ctx context.Context) error {
	release, err := m.change(ctx)
	if err != nil {
		return err
	}
	old, err := m.roll()
	release()
	for _, p := range old {
		<-p.done
	}
	return err
}

// roll replaces all workers by a new generation and returns those that drain.
func (m *Master) roll() (old []*proc, err error) {
	var slots []*slot
	err = m.do(func() {
		m.generation++
		slots = slices.Clone(m.slots)
	})
	for _, s := range slots {
		var p *proc
		if p, err = m.replace(s, nil); err != nil {
			break
		}
		if p != nil {
			old = append(old, p)
		}
	}
	return old, err
}

// replace puts a successor into a slot, and returns the predecessor, which drains, when the successor is ready. Only the
// predecessor named is replaced, if one is named; then the successor runs the same code.
func (m *Master) replace(s *slot, only *proc) (old *proc, err error) {
	var next *proc
	if e := m.do(func() {
		generation, image := m.generation, (*os.File)(nil)
		if only != nil {
			if s.current != only {
				return
			}
			generation, image = s.generation, s.image
		}
		if m.stopping {
			err = ErrStopping
			return
		}
		s.calm()
		if next, err = m.spawn(s, generation, image); err != nil {
			err = fmt.Errorf("worker %d: the new process could not be started: %w", s.number, err)
			m.fill(s) // in case that it waited for its next try
		}
		s.next = next
	}); e != nil || err != nil || next == nil {
		return nil, errors.Join(e, err)
	}
	select {
	case old = <-next.readied:
		return old, nil
	case <-next.done:
	}
	select {
	case old = <-next.readied: // and died since
		return old, nil
	default:
	}
	if e := m.do(func() {
		if m.stopping {
			err = ErrStopping
		}
	}); e != nil || err != nil {
		return nil, ErrStopping
	}
	return nil, fmt.Errorf("worker %d: the new process did not get ready: %s", s.number, next.cause())
}

// renew replaces one worker in its turn, its successor ready first.
func (m *Master) renew(s *slot, why string) {
	p := s.current
	if p.renewing || m.stopping {
		return
	}
	p.renewing = true
	m.Logger.Info("worker to be replaced", "server", m.Name, "worker", s.number, "pid", p.pid(), "cause", why)
	go func() {
		release, err := m.change(context.Background())
		if err == nil {
			_, err = m.replace(s, p)
			release()
		}
		if err == nil || errors.Is(err, ErrStopping) {
			return
		}
		m.Logger.Error("worker not replaced", "server", m.Name, "worker", s.number, "cause", err)
		time.AfterFunc(lastBackoff, func() { _ = m.do(func() { p.renewing = false }) })
	}()
}

// Restart ends all workers and starts new ones that run what the path names now. The socket stays open, so that whoever
// connects meanwhile waits. It returns when the new ones are ready, or why one is not; then the old code is started
// again.
func (m *Master) Restart(ctx context.Context) error {
	release, err := m.change(ctx)
	if err != nil {
		return err
	}
	defer release()
	var old []*proc
	var slots []*slot
	if err := m.do(func() {
		m.generation++
		slots = slices.Clone(m.slots)
		for _, s := range slots {
			s.calm()
			s.current = nil
		}
		for p := range m.procs {
			m.drain(p, true)
			old = append(old, p)
		}
	}); err != nil {
		return err
	}
	for _, p := range old {
		<-p.done
	}
	for i, s := range slots {
		if _, err := m.replace(s, nil); err != nil {
			_ = m.do(func() {
				for _, empty := range slots[i:] {
					m.fill(empty)
				}
			})
			return err
		}
		_ = m.do(func() { s.restarts++ })
	}
	return nil
}

// Scale changes how many workers there are, and returns when new ones are ready and surplus ones gone. When a new one
// does not get ready, it and those after it are not added, and the error says why.
func (m *Master) Scale(ctx context.Context, count int) error {
	if m.Single && count != 1 {
		return errForkOne
	}
	if count < 1 || count > MaxWorkers {
		return fmt.Errorf("workers: %d is not between 1 and %d", count, MaxWorkers)
	}
	release, err := m.change(ctx)
	if err != nil {
		return err
	}
	defer release()
	var surplus []*proc
	have := 0
	if err := m.do(func() {
		have = len(m.slots)
		for _, s := range m.slots[min(have, count):] {
			s.calm()
			s.keep(nil)
			if s.current != nil {
				m.drain(s.current, true)
				surplus = append(surplus, s.current)
			}
		}
		m.slots = m.slots[:min(have, count)]
	}); err != nil {
		return err
	}
	for n := have + 1; n <= count; n++ {
		s := &slot{number: n}
		if err := m.do(func() { m.slots = append(m.slots, s) }); err != nil {
			return err
		}
		if _, err := m.replace(s, nil); err != nil {
			_ = m.do(func() { m.slots = slices.DeleteFunc(m.slots, func(o *slot) bool { return o == s }) })
			return err
		}
	}
	for _, p := range surplus {
		<-p.done
	}
	return nil
}
