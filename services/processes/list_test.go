package processes

import (
	"encoding/json"
	"testing"
	"time"

	"balanza/services/store"
)

// The state of a process follows from its own record and from those of its place.
func TestJudge(t *testing.T) {
	now := time.Date(2026, 11, 30, 12, 0, 0, 0, time.UTC)
	at := func(seconds int) time.Time { return now.Add(time.Duration(seconds) * time.Second) }
	// old was started a minute ago and has written its record that many seconds before now.
	old := func(seen int, change func(*store.Process)) store.Process {
		p := store.Process{
			ID: "old", Server: "s", Host: "h", Machine: "m", Worker: 1, PID: 10, State: store.Online, Started: at(-60),
			Seen: at(-seen), Interval: restInterval, Expires: at(-seen).Add(lifetime),
		}
		if change != nil {
			change(&p)
		}
		return p
	}
	// newer was started in the same place that many seconds before now.
	newer := func(started int, change func(*store.Process)) store.Process {
		p := old(0, change)
		p.ID, p.PID, p.Started = "new", p.PID+1, at(-started)
		return p
	}
	for _, c := range []struct {
		name    string
		records []store.Process
		outage  outage
		state   State
		cause   string
	}{
		{"in time", []store.Process{old(0, nil)}, outage{}, Online, ""},
		{"late", []store.Process{old(11, nil)}, outage{}, Online, ""},
		{"overdue", []store.Process{old(12, nil)}, outage{}, Silent, ""},
		{"overdue while a panel is open", []store.Process{old(4, func(p *store.Process) { p.Interval = panelInterval })}, outage{},
			Silent, ""},
		{"expired", []store.Process{old(15, nil)}, outage{}, Ended, withoutNotice},
		{"drains", []store.Process{old(1, func(p *store.Process) { p.State, p.Cause = store.Draining, "reload" })}, outage{},
			Draining, "reload"},
		{"killed while it drained", []store.Process{old(15, func(p *store.Process) { p.State, p.Cause = store.Draining, "stop" })},
			outage{}, Ended, "stop"},
		{"ended", []store.Process{old(1, func(p *store.Process) { p.State, p.Cause, p.Expires = store.Ended, "scale", p.Seen })},
			outage{}, Ended, "scale"},
		{"reported by its successor", []store.Process{old(1, nil), newer(0, func(p *store.Process) {
			p.Predecessor = store.Predecessor{PID: 10, Cause: "signal: killed"}
		})}, outage{}, Ended, "signal: killed"},
		{"a successor of another process", []store.Process{old(1, nil), newer(2, func(p *store.Process) {
			p.Predecessor = store.Predecessor{PID: 9, Cause: "signal: killed"}
		})}, outage{}, Online, ""},
		{"the same pid on another machine", []store.Process{old(1, nil), newer(2, func(p *store.Process) {
			p.Machine, p.Predecessor = "n", store.Predecessor{PID: 10, Cause: "signal: killed"}
		})}, outage{}, Online, ""},
		{"it replaced a process of its own pid", []store.Process{old(1, func(p *store.Process) {
			p.Predecessor = store.Predecessor{PID: 10, Cause: "signal: killed"}
		})}, outage{}, Online, ""},
		{"a newer one in its place", []store.Process{old(7, nil), newer(6, nil)}, outage{}, Ended, withoutNotice},
		{"a newer one that a reload has started", []store.Process{old(5, nil), newer(4, nil)}, outage{}, Online, ""},
		{"a newer one while it was there", []store.Process{old(5, nil), newer(6, nil)}, outage{}, Online, ""},
		{"a newer one of another worker", []store.Process{old(5, nil), newer(4, func(p *store.Process) { p.Worker = 2 })}, outage{},
			Online, ""},
		{"after an outage", []store.Process{old(60, nil)}, outage{at(-50), at(-1)}, Online, ""},
		{"long after an outage", []store.Process{old(60, nil)}, outage{at(-50), at(-12)}, Silent, ""},
		{"ended before an outage", []store.Process{old(60, nil)}, outage{at(-40), at(-1)}, Ended, withoutNotice},
		{"of an earlier version", []store.Process{{
			ID: "old", Server: "s", Host: "h", PID: 10, Version: "v", Websockets: 3, Expires: at(10),
		}}, outage{}, Online, ""},
	} {
		for _, p := range newList(now, c.records, c.outage).Processes {
			switch {
			case p.ID == "old" && (p.State != c.state || p.Cause != c.cause):
				t.Errorf("%s: %s, %q, want %s, %q", c.name, p.State, p.Cause, c.state, c.cause)
			case p.ID == "new" && p.State != Online:
				t.Errorf("%s: the newer one is %s", c.name, p.State)
			case p.Started.IsZero() || p.Seen.IsZero() || p.Interval == 0:
				t.Errorf("%s: %+v", c.name, p)
			}
		}
	}
}

// The list's order does not depend on the store's.
func TestOrder(t *testing.T) {
	var records []store.Process
	now := time.Now()
	for _, id := range []string{"d", "c", "b", "a"} {
		records = append(records, store.Process{ID: id, Service: map[bool]string{true: "x", false: "y"}[id < "c"], Expires: now})
	}
	var order string
	for _, p := range newList(now, records, outage{}).Processes {
		order += p.ID
	}
	if order != "abcd" {
		t.Errorf("order %s", order)
	}
}

// The fields are those that programs and pages know.
func TestJSON(t *testing.T) {
	at := time.Date(2026, 11, 30, 12, 0, 0, 0, time.UTC)
	got, err := json.Marshal(newList(at, []store.Process{{
		ID: "i", Service: "replica", Server: "h:8080", Mode: "CLUSTER", Host: "h", Machine: "m", Worker: 2, PID: 7, Version: "v",
		State: store.Online, Started: at, Seen: at, Interval: time.Second, Expires: at.Add(time.Minute), Restarts: 1, Requests: 5,
		Errors: 6, Rate: 1.5, P50: 1200 * time.Microsecond, Draws: 3, Connections: 4, Websockets: 8, Panels: 1, Memory: 9, CPU: 0.5,
		Predecessor: store.Predecessor{PID: 6, Cause: "signal: killed"},
	}}, outage{}).Processes[0])
	const want = `{"id":"i","service":"replica","server":"h:8080","mode":"CLUSTER","host":"h","machine":"m","worker":2,"pid":7,` +
		`"version":"v","state":"online","started":"2026-11-30T12:00:00Z","seen":"2026-11-30T12:00:00Z","restarts":1,"requests":5,` +
		`"errors":6,"rate":1.5,"p50":0.0012,"p99":null,"draws":3,"connections":4,"websockets":8,"memory":9,"cpu":0.5,"interval":1,` +
		`"cause":"","predecessor":{"pid":6,"cause":"signal: killed"}}`
	if err != nil || string(got) != want {
		t.Errorf("got  %s, %v\nwant %s", got, err, want)
	}
}
