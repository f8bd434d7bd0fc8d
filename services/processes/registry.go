// Package processes keeps the record of this process in the store, and reads those of all: which processes there are, on
// every machine, what they answer, and how they ended. One Registry for each process; one goroutine, that of Run, writes.
package processes

import (
	"context"
	"crypto/rand"
	mathrand "math/rand/v2"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"balanza/services/store"
)

const (
	// restInterval is the time between two records of a process, panelInterval while a panel is open in any process.
	restInterval  = 5 * time.Second
	panelInterval = time.Second
	// countInterval is the time between two counts of all processes, which also tell whether a panel is open elsewhere.
	countInterval = 5 * time.Second
	// lifetime is how long a process counts as live after its record.
	lifetime = 3 * restInterval
	// endTimeout limits the last record, which delays the end of the process.
	endTimeout = time.Second
)

// Sample is what a process tells of itself at a moment.
type Sample struct {
	Requests, Errors int64   // answered since the start, and those with a status of 500 or more
	Buckets          []int64 // the same requests by duration: those up to Bounds[i] that are above Bounds[i-1]; the last has no bound
	Draws            int     // requests for random numbers that are being answered
	Connections      int     // open, websockets not among them
	Websockets       int     // open
	Panels           int     // of the websockets: open panels
}

// Source is the process itself: what it does, and where the list is shown.
type Source interface {
	// Bounds are the upper bounds of Sample.Buckets in seconds. They do not change.
	Bounds() []float64
	// Sample is called before each record.
	Sample() Sample
	// Show gets the list of all processes once a second while the process has panels open. It must not block.
	Show(List)
}

// Registry is one process's record, and its access to those of all others.
type Registry struct {
	store store.Store
	clock *store.Clock
	self  store.Process
	phase time.Duration // from a multiple of an interval to this process's records, so that not all write at once

	live   atomic.Int64
	panels atomic.Int64  // of all processes, at the last count
	wakeup chan struct{} // capacity 1

	started time.Time // of the process by the store's clock; zero until that has told the time

	mu     sync.Mutex
	state  store.ProcessState
	cause  string
	down   bool   // the last write failed
	outage outage // the last one; began is set while it lasts

	reading chan struct{} // capacity 1: held by the call that reads the list, to which known belongs
	known   known
}

// outage is a time in which this process could not write into the store.
type outage struct{ began, ended time.Time }

// New returns the registry of a process, which self describes: all fields that stay the same while it runs. Texts that are
// too long for the store are cut.
func New(s store.Store, clock *store.Clock, self store.Process) *Registry {
	for _, text := range []*string{
		&self.Service, &self.Server, &self.Mode, &self.Host, &self.Machine, &self.Version, &self.Predecessor.Cause,
	} {
		*text = cut(*text)
	}
	self.ID = rand.Text()
	return &Registry{
		store: s, clock: clock, self: self, phase: mathrand.N(restInterval), state: store.Online,
		wakeup: make(chan struct{}, 1), reading: make(chan struct{}, 1), known: known{records: make(map[string]store.Process)},
	}
}

// cut returns the start of a text that the store accepts.
func cut(text string) string {
	text = strings.ReplaceAll(strings.ToValidUTF8(text, "\ufffd"), "\x00", "")
	if len(text) > store.MaxProcessText {
		text = strings.ToValidUTF8(text[:store.MaxProcessText], "")
	}
	return text
}

// Live is the number of live processes at the last count, this one included.
func (r *Registry) Live() int { return int(max(1, r.live.Load())) }

// Drain records that the process finishes what it has, and why. Only the first call counts.
func (r *Registry) Drain(cause string) {
	r.mu.Lock()
	if r.state == store.Online {
		r.state, r.cause = store.Draining, cut(cause)
	}
	r.mu.Unlock()
	r.Update()
}

// Update has the record written now, and the list read if a panel is open.
func (r *Registry) Update() {
	select {
	case r.wakeup <- struct{}{}:
	default:
	}
}

// Run keeps the record until ctx ends, through any outage of the store, and then writes that the process has ended. It is
// called once and returns nil.
func (r *Registry) Run(ctx context.Context, process Source) error {
	m := newMeter(process.Bounds())
	var counted time.Time
	// Sooner again at the start, since other processes often start too.
	for starting := restInterval / 8; ctx.Err() == nil; starting = min(2*starting, restInterval) {
		sample := process.Sample()
		interval := restInterval
		if sample.Panels > 0 || r.panels.Load() > 0 {
			interval = panelInterval
		}
		r.write(ctx, m, sample, interval)
		if time.Since(counted) >= min(starting, countInterval)-panelInterval/2 {
			r.count(ctx)
			counted = time.Now()
		}
		if sample.Panels > 0 {
			if list, err := r.read(ctx, 0); err == nil {
				process.Show(list)
			}
		}
		if r.panels.Load() > 0 {
			interval = panelInterval // earlier than the record says
		}
		r.wait(ctx, min(interval, starting))
	}
	end, cancel := context.WithTimeout(context.WithoutCancel(ctx), endTimeout)
	defer cancel()
	r.mu.Lock()
	r.state = store.Ended
	r.mu.Unlock()
	r.write(end, m, process.Sample(), 0)
	return nil
}

// write writes the record, which promises the next one after interval.
func (r *Registry) write(ctx context.Context, m *meter, sample Sample, interval time.Duration) {
	now, errClock := r.clock.Now(ctx)
	if errClock != nil {
		now = time.Now()
	} else if r.started.IsZero() {
		// By the store's clock, as all other times of the record.
		r.started = now.Add(-time.Since(r.self.Started)).Truncate(time.Millisecond).UTC()
	}
	p := r.self
	r.mu.Lock()
	p.State, p.Cause = r.state, r.cause
	r.mu.Unlock()
	p.Started, p.Seen, p.Interval = r.started, now.Truncate(time.Millisecond).UTC(), interval
	if p.Expires = p.Seen; p.State != store.Ended {
		p.Expires = p.Seen.Add(lifetime)
	}
	m.measure(&p, sample, now)
	err := errClock
	if err == nil {
		err = r.store.PutProcess(ctx, p)
	}
	r.noteOutage(err, now)
}

// noteOutage takes in whether a write succeeded: after an outage of the store the records of others are old, too.
func (r *Registry) noteOutage(err error, now time.Time) {
	r.mu.Lock()
	defer r.mu.Unlock()
	switch {
	case err != nil && !r.down:
		r.down, r.outage.began = true, now
	case err == nil && r.down:
		r.down, r.outage.ended = false, now
	}
}

// count counts the live processes and their panels. While the store does not answer the last numbers stay.
func (r *Registry) count(ctx context.Context) {
	now, err := r.clock.Now(ctx)
	if err != nil {
		return
	}
	if live, panels, err := r.store.CountProcesses(ctx, now); err == nil {
		r.live.Store(int64(live))
		r.panels.Store(int64(panels))
	}
}

// wait waits for an interval, give or take a quarter, so that records are written at the process's own phase of it. It
// returns earlier after Update.
func (r *Registry) wait(ctx context.Context, interval time.Duration) {
	now := time.Now()
	if server, err := r.clock.Now(ctx); err == nil {
		now = server
	}
	next := interval - time.Duration(now.UnixNano()-int64(r.phase))%interval
	if next < interval/4 {
		next += interval
	}
	select {
	case <-ctx.Done():
	case <-r.wakeup:
	case <-time.After(next):
	}
}
