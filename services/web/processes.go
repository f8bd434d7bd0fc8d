package web

import (
	"context"
	"encoding/json"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/gofiber/fiber/v2"

	"balanza/services/processes"
	"balanza/services/store"
)

// source is what the site tells the registry of its process.
type source struct{ *Site }

// Source returns what the registry's Run needs.
func (s *Site) Source() processes.Source { return source{s} }

// Bounds are those of the metrics.
func (s source) Bounds() []float64 { return bucketBounds[:] }

// Sample adds up the counters of all routes but those by which others ask whether the process is healthy.
func (s source) Sample() processes.Sample {
	sample := processes.Sample{
		Buckets: make([]int64, len(bucketBounds)+1), Draws: int(s.drawing.Load()),
		Connections: s.conns.count(), Websockets: s.Websockets(), Panels: s.panels.count(),
	}
	for _, r := range s.metrics {
		if isHealthCheck(r.path) {
			continue
		}
		sample.Requests += r.answered()
		sample.Errors += r.classes[5].Load()
		for i := range r.buckets {
			sample.Buckets[i] += r.buckets[i].Load()
		}
	}
	return sample
}

// Show gives the list to the open panels.
func (s source) Show(l processes.List) { s.panels.show(l) }

// What a request came through.
const (
	throughEdge  = "edge"  // the balancer of `balanza up`
	throughProxy = "proxy" // another trusted one
)

// via tells what a request came through, nothing when it came straight. checkForwarded has removed the headers that prove
// nothing.
func via(c *fiber.Ctx) string {
	h := &c.Request().Header
	switch {
	case len(h.Peek(headerEdgeToken)) > 0:
		return throughEdge
	case len(h.Peek(fiber.HeaderXForwardedFor)) > 0:
		return throughProxy
	}
	return ""
}

// processesFrame is the answer of /api/processes, without a type, and what a panel gets: first all processes, then those that
// have changed.
type processesFrame struct {
	Type      string              `json:"type,omitempty"` // processes
	Now       time.Time           `json:"now"`
	Via       *string             `json:"via,omitempty"` // not in changes, as the history
	Processes []processes.Process `json:"processes"`
	History   *processes.History  `json:"history,omitempty"`
}

// newProcessesFrame has all processes of a list.
func newProcessesFrame(l processes.List, kind, via string) processesFrame {
	history := l.History()
	return processesFrame{Type: kind, Now: l.Now, Via: &via, Processes: l.Processes, History: &history}
}

// framesType is the type of a panel's frames.
const framesType = "processes"

// showProcesses answers with all processes as JSON.
func (s *Site) showProcesses(ctx context.Context, c *fiber.Ctx, _ store.Session) error {
	list, err := s.config.Processes.List(ctx)
	if err != nil {
		return err
	}
	return sendUncached(c, newProcessesFrame(list, "", via(c)))
}

// keptChanges is how many lists a panel may miss before it gets all processes again.
const keptChanges = 10

// panels encodes each list of processes once, for all panels that are open in this process.
type panels struct {
	registry *processes.Registry

	mu      sync.Mutex // may be locked while a client's is
	open    map[*panel]bool
	list    processes.List
	version int64             // of the list: how many were shown
	current bool              // the list was shown since a panel is open
	full    map[string][]byte // frames of the whole list by via, once a panel has needed them
	changes [][]byte          // the frames that lead to this version from those before
}

// panel is an open panel. It implements feed.
type panel struct {
	panels  *panels
	via     string
	wake    func()
	version int64 // of the list that the page has; 0: none
}

func newPanels(r *processes.Registry) *panels {
	return &panels{registry: r, open: make(map[*panel]bool)}
}

// add opens a panel, which wake tells that Next has a frame.
func (p *panels) add(via string, wake func()) *panel {
	opened := &panel{panels: p, via: via, wake: wake}
	p.mu.Lock()
	p.open[opened] = true
	first := len(p.open) == 1
	p.mu.Unlock()
	if first {
		p.registry.Update()
	}
	return opened
}

// Close forgets the panel.
func (p *panel) Close() {
	p.panels.mu.Lock()
	delete(p.panels.open, p)
	last := len(p.panels.open) == 0
	if last {
		p.panels.list, p.panels.current, p.panels.full, p.panels.changes = processes.List{}, false, nil, nil
	}
	p.panels.mu.Unlock()
	if last {
		p.panels.registry.Update() // so that no process writes more often than it must
	}
}

func (p *panels) count() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.open)
}

// show takes in a list and wakes all panels.
func (p *panels) show(l processes.List) {
	p.mu.Lock()
	if len(p.open) == 0 {
		p.mu.Unlock()
		return
	}
	if p.current {
		p.changes = append(p.changes, encodeFrame(processesFrame{Type: framesType, Now: l.Now, Processes: changed(p.list, l)}))
		p.changes = slices.Clone(p.changes[max(0, len(p.changes)-keptChanges):])
	}
	p.list, p.current, p.full = l, true, make(map[string][]byte)
	p.version++
	open := slices.Collect(maps.Keys(p.open))
	p.mu.Unlock()
	for _, each := range open { // without the lock: a client's writer holds its own one when it calls Next
		each.wake()
	}
}

// changed returns the processes of a list that are not the same in the one before.
func changed(before, now processes.List) []processes.Process {
	known := make(map[string]processes.Process, len(before.Processes))
	for _, each := range before.Processes {
		known[each.ID] = each
	}
	some := []processes.Process{}
	for _, each := range now.Processes {
		old := known[each.ID]
		if old.Seen = each.Seen; old != each {
			some = append(some, each)
		}
	}
	return some
}

// Next returns the next frame, nil when the page has the last list.
func (p *panel) Next() ([]byte, error) {
	all := p.panels
	all.mu.Lock()
	defer all.mu.Unlock()
	missed := all.version - p.version
	switch {
	case !all.current || missed == 0:
		return nil, nil
	case p.version > 0 && missed <= int64(len(all.changes)):
		p.version++
		return all.changes[int64(len(all.changes))-missed], nil
	}
	p.version = all.version
	if all.full[p.via] == nil {
		all.full[p.via] = encodeFrame(newProcessesFrame(all.list, framesType, p.via))
	}
	return all.full[p.via], nil
}

// CatchUp has nothing to do: Next never asks for it.
func (p *panel) CatchUp(context.Context) {}

func encodeFrame(f processesFrame) []byte {
	frame, _ := json.Marshal(f) // texts and finite numbers: cannot fail
	return frame
}
