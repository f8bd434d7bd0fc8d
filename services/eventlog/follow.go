package eventlog

import (
	"context"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	"balanza/services/store"
)

const (
	// minRecent is how many entries are read at the start and kept in memory; up to twice as many, since trimming copies
	// the slice. A number that is missing among them may still be written, one before them was deleted.
	minRecent = keepRecent

	// holeTimeout is how long a number stays without an entry, while later ones have theirs, until followers fill it: far
	// longer than a live process needs from its reservation to its insert. holeJitter spreads the followers.
	holeTimeout = time.Second
	holeJitter  = 500 * time.Millisecond
)

// follower is the state of the goroutine that follows the log.
type follower struct {
	polledAt    time.Time
	lastEntryAt time.Time // when the last new entry came
	behind      bool      // the last answer was a full one, so there may be more
	hole        hole
}

// hole is a gap right after the position: numbers that were given to a process which has not written yet, or died.
type hole struct {
	end  int64     // number of the entry after the gap; 0: there is none
	fill time.Time // when the gap is to be filled
}

// follow asks the store for new entries and delivers them until ctx ends.
func (l *Log) follow(ctx context.Context) {
	backoff := minBackoff
	verified := false
	var signalReady sync.Once
	for ctx.Err() == nil {
		behind, err := l.step(ctx, verified)
		verified = err == nil
		if err != nil {
			sleep(ctx, backoff)
			backoff = min(2*backoff, maxBackoff)
			continue
		}
		backoff = minBackoff
		if len(l.recent) > 0 || l.position == 0 {
			signalReady.Do(func() { close(l.ready) })
		}
		if !behind {
			l.wait(ctx)
		}
	}
}

// step takes new entries, asking the store when that is due, delivers them, and reports whether a subscriber lacks more. At
// the start and after a failure (verified is false) it first verifies that the store still has the entries read before.
func (l *Log) step(ctx context.Context, verified bool) (behind bool, err error) {
	if !verified {
		if err := l.verifyRecent(ctx); err != nil {
			return false, err
		}
	}
	l.takeAppended()
	if time.Until(l.nextPoll()) <= 0 {
		if err := l.poll(ctx); err != nil {
			return false, err
		}
	}
	return l.deliver(ctx)
}

// poll reads the entries after the position and takes those up to the first gap. The answer begins with the entry at the
// position itself, which shows whether the log is still the one that was read.
func (l *Log) poll(ctx context.Context) error {
	began := time.Now()
	l.follower.polledAt = began
	from := l.position - 1
	if len(l.recent) == 0 {
		from = l.position
	}
	limit := maxBatch
	if l.openPages() <= 0 { // nobody waits
		limit = fullAnswer
	}
	entries, err := l.store.After(ctx, from, limit+1)
	if err != nil {
		return err
	}
	l.polling.polled(time.Since(began))
	l.follower.behind = len(entries) >= fullAnswer
	if len(l.recent) > 0 {
		if len(entries) == 0 || !sameEntry(entries[0], l.recent[len(l.recent)-1]) {
			return l.verifyRecent(ctx)
		}
		entries = entries[1:]
	}
	l.advance(entries)
	l.takeAppended()
	entries = store.Above(entries, l.position)
	if len(entries) == 0 {
		l.follower.hole = hole{}
		return nil
	}
	return l.handleHole(ctx, entries[0].N)
}

// fullAnswer is how many entries make an answer after which the next poll follows without a pause, and the most that
// a poll asks for while no page is open.
const fullAnswer = 50

// handleHole fills the gap between the position and an entry once it is old enough. The store decides between the filler and
// a late writer, who then takes new numbers.
func (l *Log) handleHole(ctx context.Context, end int64) error {
	h := &l.follower.hole
	if h.end != end {
		*h = hole{end: end, fill: time.Now().Add(holeTimeout + rand.N(holeJitter))}
	}
	if l.follower.behind = time.Until(h.fill) <= 0; !l.follower.behind {
		return nil
	}
	return l.store.Fill(ctx, l.position+1, min(end-1, l.position+maxBatch))
}

// takeAppended advances over entries that this process has stored itself, as far as they follow the position. The others
// come with the next answer.
func (l *Log) takeAppended() {
	l.mu.Lock()
	appended := slices.Clone(store.Above(l.appended, l.position)) // the appender sorts the original in place
	l.mu.Unlock()
	l.advance(appended)
	l.mu.Lock()
	l.appended = store.Above(l.appended, l.position)
	l.mu.Unlock()
}

// advance moves the position over the entries that follow it without a gap.
func (l *Log) advance(entries []store.Entry) {
	n := 0
	for n < len(entries) && entries[n].N == l.position+int64(n)+1 {
		n++
	}
	if n == 0 {
		return
	}
	l.follower.lastEntryAt = time.Now()
	l.mu.Lock()
	defer l.mu.Unlock()
	l.recent = append(l.recent, entries[:n]...)
	l.position += int64(n)
	if len(l.recent) > 2*minRecent {
		l.recent = slices.Clone(l.recent[len(l.recent)-minRecent:])
	}
}

// deliver gives every subscriber its next entries, with at most one read of the store each, and reports whether one of them
// is still behind the position.
func (l *Log) deliver(ctx context.Context) (behind bool, err error) {
	l.mu.Lock()
	subscribers := l.subscribers
	l.mu.Unlock()
	for _, s := range subscribers {
		if s.delivered >= l.position {
			continue
		}
		entries, err := l.After(ctx, s.delivered, maxBatch)
		if err != nil {
			return behind, err
		}
		if len(entries) == 0 { // all of them were deleted
			s.delivered = l.position
			continue
		}
		s.deliver(entries)
		s.delivered = entries[len(entries)-1].N
		behind = behind || s.delivered < l.position
	}
	return behind, nil
}

// wait returns when the next poll is due, or earlier when wake was called.
func (l *Log) wait(ctx context.Context) {
	select {
	case <-time.After(time.Until(l.nextPoll())):
	case <-l.wakeup:
	case <-ctx.Done():
	}
}

// sameEntry reports whether two entries are the same one, read at different times.
func sameEntry(a, b store.Entry) bool { return a.N == b.N && a.ID() == b.ID() }
