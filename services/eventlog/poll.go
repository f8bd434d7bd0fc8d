package eventlog

import (
	"sync/atomic"
	"time"
)

const (
	activeInterval = 10 * time.Millisecond // between two polls while a page is open and entries come
	openInterval   = 50 * time.Millisecond // while a page is open and no entries come
	idleInterval   = time.Second           // while no page is open
	activeFor      = 3 * time.Second       // after an entry, more entries are expected for this long

	// maxPolls is how often per second all processes together ask the store for news. A process that has appended within
	// appendingFor takes its whole share, any other one half of it.
	maxPolls     = 4000
	appendingFor = time.Second
)

// After a poll a process also pauses for pauseFactor times the number of processes times the excess: by how much longer the
// last polls took than the fastest one. So the polls of all processes together keep a store busy for at most half of the
// time, whether it is near or far, and appends find it free.
const (
	pauseFactor     = 2
	idlePauseFactor = 4 // more, while no page is open
	maxPause        = time.Second
	maxIdlePause    = 5 * time.Second // while no page is open
)

// polling is what decides how often this process polls the store.
type polling struct {
	processes  func() int   // the number of live ones
	appendedAt atomic.Int64 // nanoseconds since 1970

	// These belong to the follower.
	fastest time.Duration // poll
	excess  time.Duration // of the last polls beyond the fastest, a moving average
}

// appended takes in that this process has appended.
func (p *polling) appended() { p.appendedAt.Store(time.Now().UnixNano()) }

// polled takes in how long a poll took. The fastest one is forgotten slowly: a server may have moved farther away.
func (p *polling) polled(took time.Duration) {
	p.fastest += p.fastest / 1000
	if p.fastest == 0 || took < p.fastest {
		p.fastest = took
	}
	p.excess += (took - p.fastest - p.excess) / 8
}

// count is the number of live processes, this one included.
func (p *polling) count() int64 { return int64(max(1, p.processes())) }

// share is the shortest time between two polls of this process.
func (p *polling) share() time.Duration {
	share := time.Duration(p.count()) * time.Second / maxPolls
	if time.Since(time.Unix(0, p.appendedAt.Load())) > appendingFor {
		share *= 2
	}
	return share
}

// nextPoll returns when the next poll is due. Short intervals are for pages that show entries as they come.
func (l *Log) nextPoll() time.Time {
	l.mu.Lock()
	pages, appended := l.pages, len(l.appended)
	l.mu.Unlock()
	interval := openInterval
	f := &l.follower
	switch {
	case f.behind && pages > 0: // also when a hole was just filled
		interval = 0
	case f.behind: // nobody waits for what is missing
	case f.hole.end > 0:
		interval = activeInterval
	case appended > 0: // other entries before these are not read yet
		interval = 0
	case pages <= 0:
		interval = idleInterval
	case time.Since(f.lastEntryAt) < activeFor:
		interval = activeInterval
	}
	pause, longest := pauseFactor*time.Duration(l.polling.count())*l.polling.excess, maxPause
	switch {
	case pages <= 0:
		pause, longest = idlePauseFactor*pause, maxIdlePause
	case f.behind: // pages wait for what there is
		longest = l.polling.excess
	}
	return f.polledAt.Add(max(interval, l.polling.share(), min(pause, longest)))
}
