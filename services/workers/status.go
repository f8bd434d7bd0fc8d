package workers

import (
	"cmp"
	"maps"
	"os"
	"time"

	"balanza/services/workers/control"
	"balanza/services/workers/descendants"
)

// status describes the server and its processes: by slot, then those that drain.
func (s *Server) status() control.Status {
	st := control.Status{
		Name: s.Name, Mode: s.Mode, Host: s.Host, Port: s.Port(), Pid: os.Getpid(),
		Status: "starting", Since: s.started, Instances: s.Count, Metadata: s.Metadata,
	}
	listed := map[*process]bool{}
	status := s.describer()
	for _, slot := range s.slots {
		for _, p := range []*process{slot.current, slot.next} {
			if p == nil {
				continue
			}
			w := status(p)
			if p == slot.current {
				w.Restarts, w.Cause = slot.restarts, slot.cause
			}
			st.Workers = append(st.Workers, w)
			listed[p] = true
		}
		if slot.current == nil {
			st.Workers = append(st.Workers, slot.status())
		}
	}
	for p := range s.processes {
		if !listed[p] {
			st.Workers = append(st.Workers, status(p))
		}
	}
	for _, w := range st.Workers {
		st.Restarts += w.Restarts
		if w.Status == "online" {
			st.Status = "online"
		}
		st.Cause, st.Degraded = cmp.Or(st.Cause, w.Cause), cmp.Or(st.Degraded, w.Degraded)
	}
	if s.running {
		st.Uptime = time.Since(s.started).Seconds()
	}
	switch {
	case s.stopping:
		st.Status = "stopping"
	case !s.running && s.failure != nil:
		st.Status, st.Cause = "errored", s.failure.Error()
	case !s.running:
		st.Status = "stopped"
	}
	return st
}

// describer returns what describes a process. What a program has started is read once for all.
func (s *Server) describer() func(p *process) control.WorkerStatus {
	if !s.Programs {
		return (*process).status
	}
	tree := descendants.Snapshot()
	return func(p *process) control.WorkerStatus {
		if s.front != nil && p.address != "" {
			p.requests = max(p.requests, s.front.Requests(p.address))
		}
		w := p.status()
		w.Processes = s.pids(tree, p)
		return w
	}
}

func (p *process) status() control.WorkerStatus {
	p.sample()
	w := control.WorkerStatus{
		Worker: p.slot, Pid: p.pid(), Status: "starting", Since: p.started, Uptime: time.Since(p.started).Seconds(),
		Generation: p.generation, Requests: p.requests, Details: p.details, Degraded: p.degraded,
	}
	switch {
	case p.draining:
		w.Status = "draining"
	case p.ready:
		w.Status = "online"
	}
	return w
}

// status describes a slot without a process.
func (s *workerSlot) status() control.WorkerStatus {
	w := control.WorkerStatus{
		Worker: s.number, Status: "starting", Restarts: s.restarts, Generation: s.generation, Cause: s.cause,
	}
	switch {
	case s.disabled:
		w.Status = "errored"
	case !s.retryAt.IsZero():
		w.Status = "backoff"
	}
	return w
}

// totals adds up the counters of all workers, ended ones included. They never fall below the totals reported before,
// which a sum of fractions could, by a rounding error, when its parts come in another order.
func (s *Server) totals() map[string]float64 {
	sums := maps.Clone(s.retired)
	for p := range s.processes {
		p.sample()
		for series, n := range p.counters {
			sums[series] += n
		}
	}
	mergeCounters(sums, s.reported)
	s.reported = sums
	return sums
}

// merge takes in what a worker says that it has done. A heartbeat that arrives after the answer to a scrape may have
// been sampled before it, so the larger number counts.
func (p *process) merge(h Heartbeat) {
	p.requests = max(p.requests, h.Requests)
	if p.counters == nil {
		p.counters = make(map[string]float64, len(h.Counters))
	}
	mergeCounters(p.counters, h.Counters)
	if h.Details != nil {
		p.details = h.Details
	}
}

// sample asks the in-process worker what it has done; child processes send heartbeats.
func (p *process) sample() {
	if p.inProcess != nil && p.ready && p.inProcess.Sample != nil {
		p.merge(p.inProcess.Sample())
	}
}

// mergeCounters raises the counters of into to those of from where these are larger.
func mergeCounters(into, from map[string]float64) {
	for series, n := range from {
		into[series] = max(into[series], n)
	}
}
