package eventlog

import (
	"context"
	"errors"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	"balanza/services/store"
)

const (
	maxBatch    = 500  // entries of one Append, and of one After
	minRecent   = 1000 // entries kept in memory; up to twice as many, since trimming copies the slice
	initialRead = 100  // entries read at the start
	verifyBatch = 50   // entries compared with the store at a time after a failure

	activeInterval = 10 * time.Millisecond // between two polls while a page is open and entries arrive
	openInterval   = 50 * time.Millisecond // while a page is open and no entries arrive
	idleInterval   = time.Second           // while no page is open
	activeFor      = 3 * time.Second       // after an entry, more entries are expected for this long

	minBackoff    = 20 * time.Millisecond // after store.ErrUnavailable
	maxBackoff    = time.Second
	maxContention = 6 // which makes at most 64 ms between two appends
)

// Run appends and reads until ctx ends, through any outage of the store, and then returns nil. It may be called once.
func (l *Log) Run(ctx context.Context) error {
	defer close(l.ended)
	verified, backoff := false, minBackoff
	var signalReady sync.Once
	for ctx.Err() == nil {
		more, err := l.step(ctx, verified)
		verified = err == nil
		if err != nil {
			select {
			case <-ctx.Done():
			case <-time.After(backoff):
			}
			backoff = min(2*backoff, maxBackoff)
			continue
		}
		signalReady.Do(func() { close(l.ready) })
		backoff = minBackoff
		if !more {
			l.wait(ctx)
		}
	}
	return nil
}

// step reads, appends and delivers at most one batch each, and reports whether there is more to do at once. At the start
// and after a failure (verified is false) it first verifies that the store still has the entries read before.
func (l *Log) step(ctx context.Context, verified bool) (more bool, err error) {
	if !verified {
		if err := l.verifyRecent(ctx); err != nil {
			return false, err
		}
	}
	l.receiveRequests()
	if !l.appendDue() || l.contention > 0 { // under contention a read costs less than an append that loses its race
		if more, err = l.readNext(ctx); err != nil {
			return false, err
		}
		l.pruneQueue()
	}
	if l.appendDue() {
		err = l.appendBatch(ctx)
		l.pruneQueue()
	}
	behind, deliverErr := l.deliver(ctx)
	return more || behind || l.appendDue(), errors.Join(err, deliverErr)
}

// appendDue reports whether an entry is queued and the backoff is over.
func (l *Log) appendDue() bool { return len(l.queue) > 0 && !time.Now().Before(l.nextAppendAt) }

// verifyRecent compares the recent entries with the store and forgets those that the store no longer has: a database
// server that is killed can lose entries that this process read before they were durable.
func (l *Log) verifyRecent(ctx context.Context) error {
	recent, before := l.Recent(), int64(0)
	if len(recent) > 0 {
		before = recent[0].N - 1
	}
	for end := len(recent); end > 0; { // backwards, since a server loses the last entries
		start := max(0, end-verifyBatch)
		stored, err := l.Read(ctx, recent[start].N-1, end-start)
		if err != nil {
			return err
		}
		same := start
		for same-start < len(stored) && stored[same-start].N == recent[same].N && idOf(stored[same-start]) == idOf(recent[same]) {
			same++
		}
		switch {
		case same == len(recent):
			return nil
		case same > start:
			l.resetRecent(slices.Clone(recent[:same]), recent[same-1].N)
			return nil
		}
		end = start
	}
	last, err := l.store.Last(ctx)
	if err != nil {
		return err
	}
	entries, err := l.Read(ctx, max(0, last-initialRead), initialRead)
	if err != nil {
		return err
	}
	l.resetRecent(entries, min(before, last))
	return nil
}

// Read returns count entries of the store above n, or fewer when the log has no more. It calls store.Store.After as often as
// that takes and fails with its errors.
func (l *Log) Read(ctx context.Context, n int64, count int) ([]store.Entry, error) {
	var entries []store.Entry
	for len(entries) < count {
		more, err := l.store.After(ctx, n+int64(len(entries)), count-len(entries))
		if err != nil {
			return nil, err
		}
		if len(more) == 0 {
			break
		}
		entries = append(entries, more...)
	}
	return entries, nil
}

// resetRecent replaces the recent entries. Subscribers receive the entries above the number verified again, except at the
// start, when they have received none.
func (l *Log) resetRecent(recent []store.Entry, verified int64) {
	started := len(l.recent) > 0
	l.mu.Lock()
	l.recent = recent
	if started {
		for _, s := range l.subscribers {
			s.delivered = min(s.delivered, verified)
		}
	}
	l.mu.Unlock()
	for _, e := range recent {
		l.complete(idOf(e), result{entry: e})
	}
}

// position is the number of the last entry that was read or appended.
func (l *Log) position() int64 {
	if len(l.recent) == 0 {
		return 0
	}
	return l.recent[len(l.recent)-1].N
}

// receiveRequests queues the entries of new requests and drops the entries whose callers have all given up.
func (l *Log) receiveRequests() {
	for len(l.requests) > 0 {
		l.handleRequest(<-l.requests)
	}
	for id, p := range l.pending {
		if !slices.ContainsFunc(p.requests, func(r *request) bool { return r.ctx.Err() == nil }) {
			delete(l.pending, id)
		}
	}
	l.pruneQueue()
}

// pruneQueue removes the entries that are no longer pending from the queue.
func (l *Log) pruneQueue() {
	l.queue = slices.DeleteFunc(l.queue, func(p *pendingEntry) bool { return l.pending[idOf(p.entry)] != p })
}

// handleRequest completes a request whose entry is among the recent ones and queues the entry of any other. Pages whose
// process died all repeat their unacknowledged messages at once: most of them cost no call of the store this way.
func (l *Log) handleRequest(r *request) {
	id := idOf(r.entry)
	if i := slices.IndexFunc(l.recent, func(e store.Entry) bool { return idOf(e) == id }); i >= 0 {
		r.result <- result{entry: l.recent[i]}
		return
	}
	p := l.pending[id]
	if p == nil {
		p = &pendingEntry{entry: r.entry}
		l.pending[id] = p
		l.queue = append(l.queue, p)
	}
	p.requests = append(p.requests, r)
}

// appendBatch appends the first batch of the queue. Entries that the store does not accept stay queued, unless they turn
// out to be stored already.
func (l *Log) appendBatch(ctx context.Context) error {
	batch := make([]store.Entry, min(len(l.queue), maxBatch))
	for i := range batch {
		batch[i] = l.queue[i].entry
	}
	n, err := l.store.Append(ctx, l.position(), batch)
	switch {
	case errors.Is(err, store.ErrUnavailable):
		return err
	case err != nil: // a retry would fail the same way
		for _, e := range batch {
			l.complete(idOf(e), result{err: err})
		}
		return nil
	}
	for i := range batch[:n] {
		batch[i].N = l.position() + int64(i) + 1
	}
	rest := batch[n:]
	l.advance(batch[:n:n])
	if len(rest) == 0 {
		l.appendSucceeded()
		return nil
	}
	return l.resolveConflict(ctx, rest[0])
}

// appendSucceeded and appendRaced share the log among processes that append at the same time. A process that just appended
// backs off longer than one that lost the race, and the more races a process has lost in a row the shorter it backs off, so
// that appends rotate between processes; entries that queue up meanwhile make the batches larger. Without the backoff the
// last winner is the first to know the next number, and wins again.
func (l *Log) appendSucceeded() {
	if l.racesLost == 0 {
		l.contention = max(l.contention-1, 0)
	}
	l.racesLost = 0
	if l.contention > 0 {
		l.nextAppendAt = time.Now().Add(rand.N(time.Millisecond << l.contention))
	}
}

func (l *Log) appendRaced() {
	l.contention = min(l.contention+1, maxContention)
	l.racesLost++
	l.nextAppendAt = time.Now().Add(rand.N(time.Millisecond<<l.contention) / time.Duration(l.racesLost+1))
}

// resolveConflict determines why the store did not accept an entry: another process took its number, or the log contains
// an entry of the same identity.
func (l *Log) resolveConflict(ctx context.Context, e store.Entry) error {
	before := l.position()
	if _, err := l.readNext(ctx); err != nil {
		return err
	}
	if l.position() > before {
		l.appendRaced()
		return nil
	}
	stored, err := l.store.EntryByClientID(ctx, e.Author, e.ClientID)
	switch {
	case errors.Is(err, store.ErrNotFound): // neither, so the position itself may be wrong
		l.appendRaced()
		return l.verifyRecent(ctx)
	case err != nil:
		return err
	}
	l.complete(idOf(e), result{entry: stored})
	return nil
}

// readNext reads the entries after the position and reports whether there may be more.
func (l *Log) readNext(ctx context.Context) (more bool, err error) {
	limit := maxBatch
	if !l.behind && l.contention == 0 {
		limit = 1 // a store that looks entries up one by one answers sooner, and a single new entry is the usual case
	}
	entries, err := l.store.After(ctx, l.position(), limit)
	if err != nil {
		return false, err
	}
	l.advance(entries)
	l.behind = len(entries) > 0
	return l.behind, nil
}

// advance moves the position past entries that follow it, and completes the requests for them.
func (l *Log) advance(entries []store.Entry) {
	if len(entries) == 0 {
		return
	}
	l.lastEntryAt = time.Now()
	l.mu.Lock()
	l.recent = append(l.recent, entries...)
	if len(l.recent) > 2*minRecent {
		l.recent = slices.Clone(l.recent[len(l.recent)-minRecent:])
	}
	l.mu.Unlock()
	for _, e := range entries {
		l.complete(idOf(e), result{entry: e})
	}
}

// complete gives the result to all requests for an entry, if there are any.
func (l *Log) complete(id entryID, res result) {
	p := l.pending[id]
	if p == nil {
		return
	}
	delete(l.pending, id)
	for _, r := range p.requests {
		r.result <- res
	}
}

// deliver gives every subscriber its next entries, with at most one read of the store each, and reports whether one of them
// is still behind the position.
func (l *Log) deliver(ctx context.Context) (behind bool, err error) {
	l.mu.Lock()
	subscribers := l.subscribers
	l.mu.Unlock()
	for _, s := range subscribers {
		if s.delivered < 0 {
			s.delivered = 0
			if len(l.recent) > 0 {
				s.delivered = l.recent[0].N - 1
			}
		}
		if s.delivered >= l.position() {
			continue
		}
		entries, err := l.After(ctx, s.delivered, maxBatch)
		if err != nil {
			return behind, err
		}
		if len(entries) == 0 {
			continue
		}
		s.deliver(entries)
		s.delivered = entries[len(entries)-1].N
		behind = behind || s.delivered < l.position()
	}
	return behind, nil
}

// wait returns when the next poll of the store is due, or earlier when a request can be appended or wake was called.
func (l *Log) wait(ctx context.Context) {
	interval := l.pollInterval()
	if len(l.queue) > 0 {
		interval = min(interval, time.Until(l.nextAppendAt))
	}
	timeout := time.After(interval)
	for {
		select {
		case r := <-l.requests:
			l.handleRequest(r)
			if !l.appendDue() {
				continue
			}
		case <-l.wakeup:
		case <-timeout:
		case <-ctx.Done():
		}
		return
	}
}

// pollInterval is the time between two reads of the store. Short intervals are for pages that show entries as they come.
func (l *Log) pollInterval() time.Duration {
	l.mu.Lock()
	defer l.mu.Unlock()
	switch {
	case l.pages <= 0:
		return idleInterval
	case time.Since(l.lastEntryAt) < activeFor:
		return activeInterval
	default:
		return openInterval
	}
}
