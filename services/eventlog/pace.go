package eventlog

import (
	"context"
	"crypto/rand"
	"sync/atomic"
	"time"
)

const (
	activeInterval = 10 * time.Millisecond // between two questions while a page is open and entries come
	openInterval   = 50 * time.Millisecond // while a page is open and no entries come
	idleInterval   = time.Second           // while no page is open
	activeFor      = 3 * time.Second       // after an entry, more entries are expected for this long

	// maxQuestions is how often per second all processes together ask the store for news. A process that has appended within
	// appendingFor takes its whole share, any other one half of it.
	maxQuestions = 4000
	appendingFor = time.Second

	recordInterval = 5 * time.Second // between two writes of a process's record
	recordLifetime = 3 * recordInterval
)

// crowding is how many pauses of excess a process makes after a question, for each process: the excess is the time that a
// question takes beyond the fastest one. So the questions of all processes together keep a store busy for at most half of
// the time, whether it is fast or slow, and appends find it free.
const (
	crowding     = 2
	idleCrowding = 4 // times as many while no page is open
)

// The longest pauses that crowding makes: while a page is open, and while none is.
const (
	maxPause     = time.Second
	maxIdlePause = 5 * time.Second
)

// pace is what decides how often this process may ask.
type pace struct {
	processes  atomic.Int64 // live ones, at the last count
	appendedAt atomic.Int64 // nanoseconds since 1970

	// These belong to the follower.
	fastest time.Duration // question
	excess  time.Duration // of the last questions, a moving average
}

// appended notes that this process has appended.
func (p *pace) appended() { p.appendedAt.Store(time.Now().UnixNano()) }

// asked notes how long a question took. The fastest one is forgotten slowly: a server may have moved farther away.
func (p *pace) asked(took time.Duration) {
	p.fastest += p.fastest / 1000
	if p.fastest == 0 || took < p.fastest {
		p.fastest = took
	}
	p.excess += (took - p.fastest - p.excess) / 8
}

// count is the number of live processes, this one included.
func (p *pace) count() int64 { return max(1, p.processes.Load()) }

// share is the shortest time between two questions of this process.
func (p *pace) share() time.Duration {
	share := time.Duration(p.count()) * time.Second / maxQuestions
	if time.Since(time.Unix(0, p.appendedAt.Load())) > appendingFor {
		share *= 2
	}
	return share
}

// nextQuestion returns when the store is to be asked next. Short intervals are for pages that show entries as they come.
func (l *Log) nextQuestion() time.Time {
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
	crowded, longest := crowding*time.Duration(l.pace.count())*l.pace.excess, maxPause
	switch {
	case pages <= 0:
		crowded, longest = idleCrowding*crowded, maxIdlePause
	case f.behind: // pages wait for what there is
		longest = l.pace.excess
	}
	return f.asked.Add(max(interval, l.pace.share(), min(crowded, longest)))
}

// keepRecord writes the record of this process and counts those of all, until ctx ends. While the store does not answer the
// last count stays.
func (l *Log) keepRecord(ctx context.Context) {
	id := rand.Text()
	// Sooner again at the start, since the other processes often start too.
	for interval := recordInterval / 8; ctx.Err() == nil; interval = min(2*interval, recordInterval) {
		if n, err := l.writeRecord(ctx, id); err == nil {
			l.pace.processes.Store(int64(n))
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
