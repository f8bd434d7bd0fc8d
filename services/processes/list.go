package processes

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"time"

	"balanza/services/store"
)

// State is what is known of a process.
type State string

const (
	Online   State = "online"
	Draining State = "draining"
	Silent   State = "silent" // its record is overdue
	Ended    State = "ended"
)

const (
	// listAge is how old a list may be that List returns: many requests share one reading.
	listAge = 500 * time.Millisecond
	// slack is how late a record may be besides one interval.
	slack = time.Second
	// withoutNotice is the cause of an end of which nobody knows more.
	withoutNotice = "ended without notice"
)

// List is all processes at a moment, those that have ended within store.EndedKept among them.
type List struct {
	Now       time.Time // by the store's clock
	Processes []Process // by service, server, host, worker and start
	histories [][]byte
}

// Process is one process, in JSON as /api/processes has it. Two are equal (==) when nothing but time has passed, except Seen.
type Process struct {
	ID          string            `json:"id"`
	Service     string            `json:"service"`
	Server      string            `json:"server"`
	Mode        string            `json:"mode"`
	Host        string            `json:"host"`
	Machine     string            `json:"machine"`
	Worker      int               `json:"worker"`
	PID         int               `json:"pid"`
	Version     string            `json:"version"`
	State       State             `json:"state"`
	Started     time.Time         `json:"started"`
	Seen        time.Time         `json:"seen"`
	Restarts    int               `json:"restarts"`
	Requests    int64             `json:"requests"`
	Errors      int64             `json:"errors"`
	Rate        float64           `json:"rate"` // requests a second
	P50         Seconds           `json:"p50"`
	P99         Seconds           `json:"p99"`
	Draws       int               `json:"draws"`
	Connections int               `json:"connections"`
	Websockets  int               `json:"websockets"`
	Memory      int64             `json:"memory"`   // bytes
	CPU         float64           `json:"cpu"`      // percent of one processor
	Interval    int               `json:"interval"` // seconds
	Cause       string            `json:"cause"`
	Predecessor store.Predecessor `json:"predecessor,omitzero"`
}

// Seconds is a duration that is null in JSON when it is 0, since there was nothing to measure.
type Seconds float64

// MarshalJSON writes microseconds as six decimals at most.
func (s Seconds) MarshalJSON() ([]byte, error) {
	if s == 0 {
		return []byte("null"), nil
	}
	return strconv.AppendFloat(nil, round(float64(s), 1e6), 'f', -1, 64), nil
}

// known is what was read.
type known struct {
	records map[string]store.Process // by ID; those that have ended do not change any more and are not read again
	list    List
	at      time.Time // of the last reading, by this machine's clock
}

// List returns all processes, as of half a second ago at most. It fails with store.ErrUnavailable.
func (r *Registry) List(ctx context.Context) (List, error) { return r.read(ctx, listAge) }

// read returns a list that is not older than age. One call reads at a time: calls that wait for it get its list if they may.
func (r *Registry) read(ctx context.Context, age time.Duration) (List, error) {
	select {
	case r.reading <- struct{}{}:
		defer func() { <-r.reading }()
	case <-ctx.Done():
		return List{}, fmt.Errorf("%w: %w", store.ErrUnavailable, ctx.Err())
	}
	k := &r.known
	if time.Since(k.at) < age {
		return k.list, nil
	}
	now, err := r.clock.Now(ctx)
	if err != nil {
		return List{}, err
	}
	// Records that were written since the last reading expire after it, or about then: the clocks of processes differ a little.
	since := now.Add(-store.EndedKept)
	if known := k.list.Now.Add(-lifetime); known.After(since) {
		since = known
	}
	records, err := r.store.Processes(ctx, since)
	if err != nil {
		return List{}, err
	}
	for _, p := range records {
		k.records[p.ID] = p
	}
	maps.DeleteFunc(k.records, func(_ string, p store.Process) bool { return !p.Expires.After(now.Add(-store.EndedKept)) })
	r.mu.Lock()
	outage := r.outage
	r.mu.Unlock()
	k.list, k.at = newList(now.Truncate(time.Millisecond), slices.Collect(maps.Values(k.records)), outage), time.Now()
	return k.list, nil
}

// place is what only one process has at a time, but for a successor while its predecessor drains.
type place struct {
	machine, host, server string
	worker                int
}

func placeOf(p store.Process) place { return place{p.Machine, p.Host, p.Server, p.Worker} }

// newList judges the records. outage is the last one of the store.
func newList(now time.Time, records []store.Process, outage outage) List {
	places := make(map[place][]store.Process)
	for i := range records {
		records[i] = completed(records[i])
		p := records[i]
		places[placeOf(p)] = append(places[placeOf(p)], p)
	}
	slices.SortFunc(records, func(a, b store.Process) int {
		return cmp.Or(cmp.Compare(a.Service, b.Service), cmp.Compare(a.Server, b.Server), cmp.Compare(a.Host, b.Host),
			cmp.Compare(a.Worker, b.Worker), a.Started.Compare(b.Started), cmp.Compare(a.ID, b.ID))
	})
	list := List{Now: now.UTC(), Processes: make([]Process, len(records))}
	for i, p := range records {
		state, cause := judge(p, places[placeOf(p)], now, outage)
		list.Processes[i] = Process{
			ID: p.ID, Service: p.Service, Server: p.Server, Mode: p.Mode, Host: p.Host, Machine: p.Machine, Worker: p.Worker,
			PID: p.PID, Version: p.Version, State: state, Started: p.Started, Seen: p.Seen, Restarts: p.Restarts,
			Requests: p.Requests, Errors: p.Errors, Rate: p.Rate, P50: Seconds(p.P50.Seconds()), P99: Seconds(p.P99.Seconds()),
			Draws: p.Draws, Connections: p.Connections, Websockets: p.Websockets, Memory: p.Memory, CPU: p.CPU,
			Interval: int(p.Interval / time.Second), Cause: cause, Predecessor: p.Predecessor,
		}
		list.histories = append(list.histories, p.History)
	}
	return list
}

// completed fills in what the record of an earlier version lacks.
func completed(p store.Process) store.Process {
	if p.Seen.IsZero() {
		p.Seen = p.Expires.Add(-lifetime)
	}
	if p.Started.IsZero() {
		p.Started = p.Seen
	}
	if p.Interval == 0 {
		p.Interval = restInterval
	}
	p.Service, p.State = cmp.Or(p.Service, p.Server), cmp.Or(p.State, store.Online)
	return p
}

// judge returns the state of a process at a time, and the cause of a drain or an end. others are all of its place.
func judge(p store.Process, others []store.Process, now time.Time, outage outage) (State, string) {
	if p.State == store.Ended {
		return Ended, p.Cause
	}
	for _, o := range others {
		if o.Predecessor.PID == p.PID && o.PID != p.PID && o.Started.After(p.Started) {
			return Ended, o.Predecessor.Cause
		}
	}
	// A successor that a reload has started is there before this process drains: then the next record comes in time.
	for _, o := range others {
		if o.Started.After(p.Seen) && now.Sub(p.Seen) > p.Interval+slack {
			return Ended, cmp.Or(p.Cause, withoutNotice)
		}
	}
	seen, expires := p.Seen, p.Expires
	// While this process could not write, the others could not either: they get the time to do so again.
	if seen.Before(outage.ended) && expires.After(outage.began) {
		seen, expires = outage.ended, outage.ended.Add(lifetime)
	}
	switch {
	case !expires.After(now):
		return Ended, cmp.Or(p.Cause, withoutNotice)
	case now.Sub(seen) > 2*p.Interval+slack:
		return Silent, p.Cause
	}
	return State(p.State), p.Cause
}
