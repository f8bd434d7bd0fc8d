// Package eventlog appends to the log of a store and follows it.
package eventlog

import (
	"context"
	"crypto/rand"
	"fmt"
	"slices"
	"sync"
	"time"

	"balanza/services/store"
)

// Log is one process's access to the store's log. A single goroutine, Run, both appends and reads: an Append that succeeds
// at the expected number proves that no entry of another process came in between, so both share one position without locks.
type Log struct {
	store    store.Store
	requests chan *request
	wakeup   chan struct{} // capacity 1: a token in it ends Run's wait
	ready    chan struct{} // closed once Run knows the position of the log
	ended    chan struct{} // closed when Run returns

	mu          sync.Mutex
	recent      []store.Entry // without a gap; its last entry is the position up to which Run has read the log
	subscribers []*subscriber
	pages       int // open pages, the sum of the calls of AddPages

	// The fields below belong to the goroutine of Run.
	queue       []*pendingEntry           // entries to append, in order
	pending     map[entryID]*pendingEntry // the same entries by identity
	lastEntryAt time.Time                 // time of the last new entry, read or appended
	behind      bool                      // the last read returned entries, so there may be more
	// The backoff among processes that append at the same time: see appendSucceeded and appendRaced.
	contention   int       // estimate of how many such processes there are; each step doubles the backoff
	racesLost    int       // in a row
	nextAppendAt time.Time // no append before
}

// entryID is the part of an entry that is unique in the log and known before the entry has a number.
type entryID struct{ author, clientID string }

func idOf(e store.Entry) entryID { return entryID{e.Author, e.ClientID} }

// request is one call of Submit.
type request struct {
	ctx    context.Context
	entry  store.Entry
	result chan result // capacity 1, so that Run does not block when the caller no longer waits
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

type subscriber struct {
	delivered int64 // number of the last entry delivered; negative: start with the recent entries
	deliver   func([]store.Entry)
}

// NewLog returns the log of a store. It does nothing until Run is called.
func NewLog(s store.Store) *Log {
	return &Log{
		store:    s,
		requests: make(chan *request, maxBatch),
		wakeup:   make(chan struct{}, 1),
		ready:    make(chan struct{}),
		ended:    make(chan struct{}),
		pending:  map[entryID]*pendingEntry{},
	}
}

// Append stores an entry and returns it with its number. When the log has an entry of the same store.Author and ClientID, Append
// returns that one instead, so a repeated call is safe. An empty ClientID is replaced by a random one. Append retries until
// ctx ends and then fails with store.ErrUnavailable, which means that the entry is not known to be stored. It fails with
// store.ErrInvalid when the entry does not pass Check.
func (l *Log) Append(ctx context.Context, e store.Entry) (store.Entry, error) { return l.Submit(ctx, e)() }

// Submit is the first half of Append: it puts the entry into the queue, before any entry submitted after Submit has
// returned. The function that it returns waits for the result of Append; the caller calls it once.
func (l *Log) Submit(ctx context.Context, e store.Entry) (stored func() (store.Entry, error)) {
	if err := e.Check(); err != nil {
		return func() (store.Entry, error) { return store.Entry{}, err }
	}
	if e.ClientID == "" {
		e.ClientID = rand.Text()
	}
	if e.Message != nil { // the store rounds the time, and this process delivers what all others will read
		m := *e.Message
		m.Time = m.Time.UTC().Truncate(time.Millisecond)
		e.Message = &m
	}
	r := &request{ctx: ctx, entry: e, result: make(chan result, 1)}
	select {
	case l.requests <- r:
	case <-ctx.Done():
	case <-l.ended:
	}
	return func() (store.Entry, error) { return l.await(r) }
}

// await waits for the result of a request.
func (l *Log) await(r *request) (store.Entry, error) {
	select {
	case res := <-r.result:
		return res.entry, res.err
	case <-r.ctx.Done():
	case <-l.ended:
	}
	select {
	case res := <-r.result: // the result came at the same time, and select chose the other case
		return res.entry, res.err
	default:
	}
	if err := r.ctx.Err(); err != nil {
		return store.Entry{}, fmt.Errorf("%w: %w", store.ErrUnavailable, err)
	}
	return store.Entry{}, fmt.Errorf("%w: the log is closed", store.ErrUnavailable)
}

// Subscribe calls deliver with every entry above the number after, in order, without a gap, each once; a negative after
// starts with the entries that Recent holds. All calls come from Run's goroutine: deliver must not block and must not
// change its argument. One call may still be running when cancel returns. A database server that crashes may lose entries
// that were not durable, and thus never acknowledged; only then the log steps back and delivers the entries that replace
// them under the same numbers.
func (l *Log) Subscribe(after int64, deliver func([]store.Entry)) (cancel func()) {
	s := &subscriber{delivered: after, deliver: deliver}
	l.mu.Lock()
	l.subscribers = append(l.subscribers, s)
	l.mu.Unlock()
	l.wake()
	return func() {
		l.mu.Lock()
		defer l.mu.Unlock()
		// Run may be iterating over the old slice.
		l.subscribers = slices.DeleteFunc(slices.Clone(l.subscribers), func(other *subscriber) bool { return other == s })
	}
}

// AddPages changes the number of open pages by delta. While it is above 0 the log polls the store more often.
func (l *Log) AddPages(delta int) {
	l.mu.Lock()
	before := l.pages
	l.pages += delta
	l.mu.Unlock()
	if before <= 0 && delta > 0 {
		l.wake()
	}
}

// Ready returns a channel that is closed once the log's position is known. From then on Recent holds at least the last
// entries, if the log has any.
func (l *Log) Ready() <-chan struct{} { return l.ready }

// Recent returns the last entries, oldest first: about the last thousand, fewer soon after the start. The caller must not
// change them.
func (l *Log) Recent() []store.Entry {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.recent[:len(l.recent):len(l.recent)]
}

// After returns at most limit entries above n, as store.Store.After does, but only up to the log's position. It answers from
// memory where it can, and otherwise fails with the store's errors.
func (l *Log) After(ctx context.Context, n int64, limit int) ([]store.Entry, error) {
	recent := l.Recent()
	if len(recent) == 0 || n < recent[0].N-1 {
		return l.store.After(ctx, n, limit)
	}
	rest := recent[min(n-recent[0].N+1, int64(len(recent))):]
	return rest[:min(limit, len(rest))], nil
}

// wake ends Run's wait.
func (l *Log) wake() {
	select {
	case l.wakeup <- struct{}{}:
	default:
	}
}
