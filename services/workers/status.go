package workers

import (
	"maps"
	"time"
)

// WorkerStatus is one process of a server.
type WorkerStatus struct {
	Worker     int       `json:"worker"`
	Pid        int       `json:"pid"`    // 0: none
	Status     string    `json:"status"` // starting, online, draining, backoff or errored
	Since      time.Time `json:"since"`  // when the process was started
	Restarts   int       `json:"restarts"`
	Generation int       `json:"generation"`
	Requests   int64     `json:"requests"`        // answered by this process
	Cause      string    `json:"cause,omitempty"` // why its predecessor died
}

// Workers lists the processes, by slot; those that drain come last. stopping: the server is about to end.
func (m *Master) Workers() (all []WorkerStatus, stopping bool) {
	err := m.do(func() {
		stopping = m.stopping
		listed := map[*proc]bool{}
		for _, s := range m.slots {
			for _, p := range []*proc{s.current, s.next} {
				if p != nil {
					w := p.status()
					if p == s.current {
						w.Restarts, w.Cause = s.restarts, s.cause
					}
					all = append(all, w)
					listed[p] = m.procs[p]
				}
			}
			if s.current == nil {
				all = append(all, s.vacancy())
			}
		}
		for p := range m.procs {
			if !listed[p] {
				all = append(all, p.status())
			}
		}
	})
	return all, stopping || err != nil
}

func (p *proc) status() WorkerStatus {
	p.sample()
	w := WorkerStatus{
		Worker: p.slot, Pid: p.pid(), Status: "starting", Since: p.started, Generation: p.generation, Requests: p.requests,
	}
	switch {
	case p.draining:
		w.Status = "draining"
	case p.ready:
		w.Status = "online"
	}
	return w
}

// vacancy is the status of a slot without a process.
func (s *slot) vacancy() WorkerStatus {
	w := WorkerStatus{Worker: s.number, Status: "starting", Restarts: s.restarts, Generation: s.generation, Cause: s.cause}
	switch {
	case s.errored:
		w.Status = "errored"
	case s.retry != nil:
		w.Status = "backoff"
	}
	return w
}

// totals adds up the counters of all workers, dead ones included. What was told before is the least: a sum of fractions
// depends on the order of its parts, by a hair.
func (m *Master) totals() map[string]float64 {
	all := maps.Clone(m.retired)
	for p := range m.procs {
		p.sample()
		for series, n := range p.counters {
			all[series] += n
		}
	}
	for series, n := range all {
		all[series] = max(n, m.told[series])
	}
	m.told = all
	return all
}

// note takes in what a process says that it has done. Counters only grow: a heartbeat that comes after the answer to a
// scrape may have been sampled before it.
func (p *proc) note(b Beat) {
	p.requests = max(p.requests, b.Requests)
	if p.counters == nil {
		p.counters = make(map[string]float64, len(b.Counters))
	}
	for series, n := range b.Counters {
		p.counters[series] = max(p.counters[series], n)
	}
}

// sample asks the master's own process what it has done; children tell by themselves.
func (p *proc) sample() {
	if p.worker != nil && p.ready && p.worker.Sample != nil {
		p.note(p.worker.Sample())
	}
}
