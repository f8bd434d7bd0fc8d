package eventlog

import (
	"context"
	"errors"
	"slices"
	"time"

	"balanza/services/store"
)

const (
	maxBatch   = 500                   // entries of one Append, and of one After
	minBackoff = 20 * time.Millisecond // after store.ErrUnavailable
	maxBackoff = time.Second
	// gatherShare is which part of the time that a batch took the next one waits for more entries: an eighth.
	gatherShare = 8
)

// request is one call of Submit.
type request struct {
	ctx    context.Context
	entry  store.Entry
	result chan result // capacity 1, so that the appender does not block when the caller no longer waits
}

type result struct {
	entry store.Entry
	err   error
}

// pendingEntry is an entry that is not known to be stored, with all requests for it.
type pendingEntry struct {
	entry    store.Entry
	requests []*request
}

// queue holds the pending entries in the order of their first requests.
type queue struct {
	order []*pendingEntry
	byID  map[store.EntryID]*pendingEntry
}

// append stores what Submit queues until ctx ends: one batch after the other, so that entries keep their order.
func (l *Log) append(ctx context.Context) {
	q := queue{byID: map[store.EntryID]*pendingEntry{}}
	backoff := minBackoff
	expected, wait := 0, time.Duration(0)
	for ctx.Err() == nil {
		if len(q.order) == 0 {
			select {
			case <-ctx.Done():
				return
			case r := <-l.requests:
				l.enqueue(&q, r)
			}
		}
		l.gather(&q, expected, wait)
		q.dropAbandoned()
		began, queued := time.Now(), len(q.order)
		if err := l.appendBatch(ctx, &q); err != nil {
			sleep(ctx, backoff)
			backoff = min(2*backoff, maxBackoff)
			continue
		}
		backoff = minBackoff
		expected, wait = queued+len(l.requests), time.Since(began)/gatherShare
	}
}

// gather queues the requests that are there, and waits a little while for as many as the last batch had and left waiting:
// callers that wait for one message before they send the next come back at about the same time, and all share one batch. A
// single caller waits for nobody.
func (l *Log) gather(q *queue, expected int, wait time.Duration) {
	timeout := time.After(wait)
	for {
		select {
		case r := <-l.requests:
			l.enqueue(q, r)
			continue
		default:
		}
		if len(q.order) >= min(expected, maxBatch) {
			return
		}
		select {
		case r := <-l.requests:
			l.enqueue(q, r)
		case <-timeout:
			return
		}
	}
}

// enqueue completes a request whose message is among the recent entries, and queues the entry of any other. Pages whose
// process died all repeat their unacknowledged messages at once: most of them cost no call of the store this way.
func (l *Log) enqueue(q *queue, r *request) {
	id := r.entry.ID()
	if r.entry.Kind == store.MessagePosted {
		recent := l.Recent()
		if i := slices.IndexFunc(recent, func(e store.Entry) bool { return e.ID() == id }); i >= 0 {
			r.result <- result{entry: recent[i]}
			return
		}
	}
	p := q.byID[id]
	if p == nil {
		p = &pendingEntry{entry: r.entry}
		q.byID[id] = p
		q.order = append(q.order, p)
	}
	p.requests = append(p.requests, r)
}

// dropAbandoned removes the entries whose callers have all given up.
func (q *queue) dropAbandoned() {
	q.order = slices.DeleteFunc(q.order, func(p *pendingEntry) bool {
		abandoned := !slices.ContainsFunc(p.requests, func(r *request) bool { return r.ctx.Err() == nil })
		if abandoned {
			delete(q.byID, p.entry.ID())
		}
		return abandoned
	})
}

// appendBatch stores the first batch of the queue and completes its requests. The batch stays queued when the store is
// unavailable: what was stored all the same is found by its identity at the next try. Any other error would be the same the
// next time, so it completes the requests too.
func (l *Log) appendBatch(ctx context.Context, q *queue) error {
	batch := q.order[:min(len(q.order), maxBatch)]
	if len(batch) == 0 {
		return nil
	}
	now, err := l.clock.Now(ctx)
	if err != nil {
		return err
	}
	entries := make([]store.Entry, len(batch))
	for i, p := range batch {
		p.entry.Message = withTime(p.entry.Message, now)
		entries[i] = p.entry
	}
	stored, err := l.store.Append(ctx, entries)
	if errors.Is(err, store.ErrUnavailable) {
		return err
	}
	if err == nil {
		l.handToFollower(stored)
	}
	for i, p := range batch {
		res := result{err: err}
		if err == nil {
			res.entry = stored[i]
		}
		for _, r := range p.requests {
			r.result <- res
		}
		delete(q.byID, p.entry.ID())
	}
	q.order = slices.Delete(q.order, 0, len(batch))
	return nil
}

// withTime returns the message with a time, rounded as the store does: this process delivers what all others will read.
func withTime(m *store.Message, now time.Time) *store.Message {
	if m == nil {
		return nil
	}
	timed := *m
	if timed.Time.IsZero() {
		timed.Time = now
	}
	timed.Time = timed.Time.UTC().Truncate(time.Millisecond)
	return &timed
}

// handToFollower gives the follower the entries that this process has stored, so that it need not read them.
func (l *Log) handToFollower(stored []store.Entry) {
	l.mu.Lock()
	l.appended = append(l.appended, stored...)
	slices.SortFunc(l.appended, func(a, b store.Entry) int { return int(a.N - b.N) })
	l.mu.Unlock()
	l.polling.appended()
	l.wake()
}

// sleep returns after d, or earlier when ctx ends.
func sleep(ctx context.Context, d time.Duration) {
	select {
	case <-ctx.Done():
	case <-time.After(d):
	}
}
