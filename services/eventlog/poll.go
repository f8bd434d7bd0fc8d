package eventlog

import (
	"context"
	"crypto/rand"
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

	recordInterval = 5 * time.Second // between two writes of a process's record
	recordLifetime = 3 * recordInterval
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
	processes  atomic.Int64 // live ones, at the last count
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
func (p *polling) count() int64 { return max(1, p.processes.Load()) }

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

// keepRecord writes the record of this process and counts those of all, until ctx ends. While the store does not answer the
// last count stays.
func (l *Log) keepRecord(ctx context.Context) {
	id := rand.Text()
	// Sooner again at the start, since the other processes often start too.
	for interval := recordInterval / 8; ctx.Err() == nil; interval = min(2*interval, recordInterval) {
		if n, err := l.writeRecord(ctx, id); err == nil {
			l.polling.processes.Store(int64(n))
		}
		sleep(ctx, interval)
	}
}

// writeRecord writes the record and returns the number of live ones.
func (l *Log) writeRecord(ctx context.Context, id string) (int, error) {
	now, err := l.clock.Now(ctx)
	if err != nil {
		return 0, err
	}
	p := l.process()
	p.ID, p.Expires = id, now.Add(recordLifetime)
	if err := l.store.PutProcess(ctx, p); err != nil {
		return 0, err
	}
	return l.store.CountProcesses(ctx, now)
}
