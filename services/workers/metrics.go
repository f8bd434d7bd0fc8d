package workers

import (
	"os"
	"strconv"
	"sync"
	"time"

	"balanza/services/metrics"
)

// workerLabel names the worker of a series: 1, 2 …, or masterValue.
const (
	workerLabel = "worker"
	serverLabel = "server"
	masterValue = "master"
)

// What a master knows of its server. A counter of a worker restarts at 0 when the server is stopped and started.
var (
	serverUp          = metrics.Family{Name: "balanza_server_up", Kind: metrics.Gauge, Help: "1: a worker of the server is online."}
	workersConfigured = metrics.Family{
		Name: "balanza_workers_configured", Kind: metrics.Gauge, Help: "Workers that the server should have; 0 while it is stopped.",
	}
	workersOnline   = metrics.Family{Name: "balanza_workers_online", Kind: metrics.Gauge, Help: "Workers that are ready."}
	workersDraining = metrics.Family{
		Name: "balanza_workers_draining", Kind: metrics.Gauge,
		Help: "Processes that finish what they have and end. They count in the totals, and have no series of their own.",
	}
	workerUp = metrics.Family{
		Name: "balanza_worker_up", Kind: metrics.Gauge, Help: "1: the worker has answered this scrape; one of an external program: it is ready.",
	}
	workerRestarts = metrics.Family{
		Name: "balanza_worker_restarts_total", Kind: metrics.Counter, Help: "How often the process of the worker was replaced, except by a reload.",
	}
)

// scrapeTimeout is how long a master waits for its workers: one that hangs is left out.
const scrapeTimeout = 500 * time.Millisecond

// scrape is a round of questions to all workers. There is one at a time, so that any number of scrapes a second cost the
// workers no more than one after another.
type scrape struct {
	waiting map[*process]bool
	reports map[*process]Report
	done    []func(serverMetrics)
}

// serverMetrics are a server's at one moment.
type serverMetrics struct {
	metrics.Snapshot
	version   string // of the master's build
	inProcess bool   // a worker lives in the master's own process
}

// text is what one server's /metrics answers: its metrics and its master's.
func (m serverMetrics) text() string {
	var all metrics.Snapshot // a new one: several scrapes share m
	all.Merge(m.Snapshot)
	if !m.inProcess {
		all.Merge(masterMetrics(m.version))
	}
	return all.Text()
}

// masterMetrics are those of this process.
func masterMetrics(version string) (all metrics.Snapshot) {
	all.Merge(metrics.Runtime(version), workerLabel, masterValue)
	all.Merge(metrics.Process(os.Getpid()), workerLabel, masterValue)
	return all
}

// Metrics returns the metrics of servers whose masters are in this process as Prometheus reads them: of each server what
// its own /metrics has, with its name as a label, and of this process once what all have in common. It takes at most as
// long as the slowest server, which waits for its workers for half a second.
func Metrics(servers []*Server) string {
	each := make([]serverMetrics, len(servers))
	var asking sync.WaitGroup
	for i, s := range servers {
		asking.Go(func() { each[i] = s.metrics() })
	}
	asking.Wait()
	var all metrics.Snapshot
	inProcess := false
	for i, m := range each {
		all.Merge(m.Snapshot, serverLabel, servers[i].Name)
		inProcess = inProcess || m.inProcess
	}
	if len(servers) > 0 && !inProcess {
		all.Merge(masterMetrics(servers[0].Version))
	}
	return all.Text()
}

// metrics asks all workers for their metrics. A server that has ended has none.
func (s *Server) metrics() (m serverMetrics) {
	reply := make(chan serverMetrics, 1)
	select {
	case s.scrapes <- reply:
	case <-s.ended:
		return m
	}
	select {
	case m = <-reply:
	case <-s.ended:
	}
	return m
}

// addScrape begins a scrape, or has one follow that under way: whoever asks gets nothing that was measured before.
func (s *Server) addScrape(done func(serverMetrics)) {
	s.nextScrape = append(s.nextScrape, done)
	if s.scrape == nil {
		s.beginScrape()
	}
}

// beginScrape asks all workers that are ready, those that drain too, whose counters are in the totals.
func (s *Server) beginScrape() {
	s.scrape = &scrape{waiting: map[*process]bool{}, reports: map[*process]Report{}, done: s.nextScrape}
	s.nextScrape = nil
	s.scrapeNumber++
	for p := range s.processes {
		if !p.ready || p.conn == nil && p.inProcess == nil {
			continue
		}
		s.scrape.waiting[p] = true
		m := message{Sample: &sample{ID: s.scrapeNumber}}
		go func() { _ = p.send(m) }() // a worker that does not read must not hold up the master
	}
	s.scrapeDeadline = time.After(scrapeTimeout)
	s.checkScrape()
}

// onReport takes in what a worker tells. A late answer to an earlier scrape still has counters.
func (s *Server) onReport(p *process, r report) {
	p.merge(Heartbeat{Counters: r.Totals.Values})
	s.families.Merge(metrics.Snapshot{Families: r.Totals.Families})
	if s.scrape != nil && r.ID == s.scrapeNumber {
		s.scrape.reports[p] = r.Report
		s.awaitNoReport(p)
	}
}

// awaitNoReport lets the scrape under way wait for this process no longer.
func (s *Server) awaitNoReport(p *process) {
	if s.scrape != nil {
		delete(s.scrape.waiting, p)
		s.checkScrape()
	}
}

// checkScrape ends the scrape when it waits for nobody.
func (s *Server) checkScrape() {
	if len(s.scrape.waiting) == 0 {
		s.endScrape()
	}
}

// endScrape answers with what has come, and begins the scrape that was asked for meanwhile.
func (s *Server) endScrape() {
	ended := s.scrape
	s.scrape, s.scrapeDeadline = nil, nil
	m := s.snapshot(ended.reports)
	for _, done := range ended.done {
		done(m)
	}
	if len(s.nextScrape) > 0 {
		s.beginScrape()
	}
}

// snapshot puts together the totals, what each worker has told, and what the master knows.
func (s *Server) snapshot(reports map[*process]Report) serverMetrics {
	m := serverMetrics{version: s.Version}
	m.Merge(s.families)
	m.Merge(metrics.Snapshot{Values: s.totals()})
	configured, online, draining := 0, 0, 0
	if s.running {
		configured = len(s.slots)
	}
	for p := range s.processes {
		m.inProcess = m.inProcess || p.inProcess != nil
		if p.draining {
			draining++
		}
	}
	for _, slot := range s.slots {
		label, up := strconv.Itoa(slot.number), 0.0
		if p := slot.current; p != nil {
			r, reported := reports[p]
			m.Merge(r.Own, workerLabel, label)
			m.Merge(metrics.Process(p.pid()), workerLabel, label)
			if p.ready && !p.draining {
				online++
			}
			if reported || s.Programs && p.ready {
				up = 1
			}
		}
		m.Set(workerUp, up, workerLabel, label)
		m.Set(workerRestarts, float64(slot.restarts), workerLabel, label)
	}
	m.Set(workersConfigured, float64(configured))
	m.Set(workersOnline, float64(online))
	m.Set(workersDraining, float64(draining))
	m.Set(serverUp, float64(min(online, 1)))
	return m
}
