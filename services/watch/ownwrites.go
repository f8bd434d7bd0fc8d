package watch

import (
	"slices"
	"time"
)

// A program that writes into its own folder must not be restarted for it again and again. No system call tells which
// process changed a file, so this file recognises such writes by their times: they follow the start of the program, or
// the previous write, after the same time again and again. People do not save a file like that. A write at any other time
// counts as a change, even of a file that was recognised, so that a person can still edit it.

const (
	// startPhase is the time after a start in which programs write process numbers, caches and build output.
	startPhase = 2 * time.Second
	// startRepeats is how many starts in a row a change must have followed after the same time within startPhase.
	startRepeats = 5
	// periodRepeats is how many changes in a row must have followed a start, or the previous change, after the same time.
	periodRepeats = 6
	// streamRepeats is how many changes in a row must have followed another within streamGap.
	streamRepeats = 20
	streamGap     = time.Second
)

// ownWrites recognises files that the program writes itself.
type ownWrites struct {
	started time.Time // the last start of the program
	starts  int
	records map[string]*record
	open    map[string]bool // files that the program was found to have open for writing
}

func newOwnWrites(started time.Time) *ownWrites {
	return &ownWrites{started: started, records: map[string]*record{}, open: map[string]bool{}}
}

// record is what is known of a file, or of the creations and removals in a folder.
type record struct {
	start       int       // the number of the last start before the last change
	changed     time.Time // the last change
	afterStart  series
	afterChange series
	own         []span
	lastOwn     bool
	others      int // changes in a row that were not the program's, as far as is known
}

// series counts events that came after the same time, in a row.
type series struct {
	gap   time.Duration
	count int
}

// span is a time after a start or, unless it is onlyStart, a change, in which the next change is the program's.
type span struct {
	from, to  time.Duration
	onlyStart bool
}

func (s *series) add(gap time.Duration, same bool) {
	if !same {
		s.count = 0
	}
	if s.count == 0 {
		s.gap = gap
	}
	s.count++
}

// restarted notes a start of the program.
func (o *ownWrites) restarted(at time.Time) {
	o.started = at
	o.starts++
}

// change notes a change at a time and tells whether the program made it. wait is how long the file must stay as it is
// before the program is restarted for it: a file that changed after each of several starts may be a person's, who then goes
// on saving it, or the program's, which then does not change it without a start. recognised is true once for each kind of
// change.
func (o *ownWrites) change(name string, at time.Time) (own, recognised bool, wait time.Duration) {
	r := o.records[name]
	if r == nil {
		r = &record{start: -1}
		o.records[name] = r
	}
	sinceStart, sinceChange := at.Sub(o.started), at.Sub(r.changed)
	if r.changed.After(o.started) && sinceChange < debounce { // the rest of the same write
		return r.lastOwn, false, 0
	}
	r.changed = at
	if r.lastOwn = r.covers(sinceStart, sinceChange); r.lastOwn {
		r.others = 0
		return true, false, 0 // the series below go on with the changes that are not recognised yet
	}
	if r.others++; r.others > 2 { // a person's file, whose saves looked like a program's for a while
		r.own = nil
	}
	if r.start != o.starts {
		r.afterStart.add(sinceStart, r.start == o.starts-1 && sinceStart >= 0 && same(r.afterStart.gap, sinceStart))
		r.afterChange.count = 0
		switch count := r.afterStart.count; {
		case sinceStart > startPhase && count >= periodRepeats:
			recognised = true
			r.recognise(sinceStart)
		case sinceStart <= startPhase && count >= startRepeats:
			recognised = true
			r.own = append(r.own, span{to: startPhase, onlyStart: true})
		case sinceStart <= startPhase && count > 1:
			wait = time.Second << (count - 1)
		}
	} else {
		if sinceStart > startPhase { // it changes without a start too
			r.afterStart.count = 0
		}
		inStream := sinceChange <= streamGap
		r.afterChange.add(sinceChange, inStream && r.afterChange.gap <= streamGap || same(r.afterChange.gap, sinceChange))
		switch count := r.afterChange.count; {
		case inStream && count >= streamRepeats:
			recognised = true
			r.own = append(r.own, span{to: 2 * streamGap})
		case !inStream && count >= periodRepeats:
			recognised = true
			r.recognise(sinceChange)
		}
	}
	if recognised {
		r.lastOwn, r.others = true, 0
	}
	r.start = o.starts
	return recognised, recognised, wait
}

// covers reports whether the program is known to change the file at these times.
func (r *record) covers(sinceStart, sinceChange time.Duration) bool {
	return slices.ContainsFunc(r.own, func(s span) bool {
		return s.from <= sinceStart && sinceStart <= s.to || !s.onlyStart && s.from <= sinceChange && sinceChange <= s.to
	})
}

// recognise adds the times at which a write is the program's from now on. A machine under load delays a program's start and
// its timers, so these are more than the times that were the same.
func (r *record) recognise(gap time.Duration) {
	r.own = append(r.own, span{from: gap / 2, to: 2 * gap})
}

// same reports whether two times are the same, as far as they can be measured and a machine under load allows.
func same(a, b time.Duration) bool {
	tolerance := max(300*time.Millisecond, a/20)
	if max(a, b) <= startPhase {
		tolerance = max(tolerance, startPhase/3)
	}
	return (a - b).Abs() <= tolerance
}
