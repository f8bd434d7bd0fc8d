// Package eventlog appends to the log of a store and follows it: one Log for each process. One goroutine appends
// (append.go) and one follows (follow.go). All processes share the number of polls of the store (poll.go).
package eventlog

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"time"

	"balanza/services/store"
)

// Log is one process's access to the store's log.
type Log struct {
	store    store.Store
	clock    *store.Clock
	requests chan *request
	wakeup   chan struct{} // capacity 1: a token in it ends the follower's wait
	ready    chan struct{} // closed once the position in the log is known
	ended    chan struct{} // closed when Run returns

	mu          sync.Mutex
	position    int64         // number of the last entry that was delivered; the log had every entry up to it
	recent      []store.Entry // the last entries up to the position, without a gap
	appended    []store.Entry // entries that this process has stored and the follower has not seen yet, by number
	subscribers []*subscriber
	pages       int // open pages, the sum of the calls of AddPages

	polling  polling
	follower follower
}

// subscriber is a receiver of entries.
type subscriber struct {
	delivered int64 // number of the last entry delivered
	deliver   func([]store.Entry)
}

// New returns the log of a store. The function processes tells how many processes follow the log, this one included. The
// log does nothing until Run is called.
func New(s store.Store, clock *store.Clock, processes func() int) *Log {
	return &Log{
		store:    s,
		clock:    clock,
		requests: make(chan *request, maxBatch),
		wakeup:   make(chan struct{}, 1),
		ready:    make(chan struct{}),
		ended:    make(chan struct{}),
		polling:  polling{processes: processes},
	}
}

// Run appends and follows until ctx ends, through any outage of the store, and then returns nil. It is called once.
func (l *Log) Run(ctx context.Context) error {
	defer close(l.ended)
	var running sync.WaitGroup
	running.Go(func() { l.append(ctx) })
	l.follow(ctx)
	running.Wait()
	return nil
}

// Append stores an entry and returns it with its number. When the log has an entry of the same Author and ClientID, Append
// returns that one instead, so a repeated call is safe. An empty ClientID is replaced by store.NewEventID, and a message
// without a time gets that of its storing. Append retries until ctx ends and then fails with store.ErrUnavailable, which
// means that the entry is not known to be stored. It fails with store.ErrInvalid when the entry does not pass Check.
func (l *Log) Append(ctx context.Context, e store.Entry) (store.Entry, error) {
	return l.Submit(ctx, e)()
}

// Submit is the first half of Append: it puts the entry into the queue, before any entry submitted after Submit has
// returned. The function that it returns waits for the result of Append; the caller calls it once.
func (l *Log) Submit(ctx context.Context, e store.Entry) (stored func() (store.Entry, error)) {
	if err := e.Check(); err != nil {
		return func() (store.Entry, error) { return store.Entry{}, err }
	}
	if e.ClientID == "" {
		e.ClientID = store.NewEventID(time.Now())
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

// Subscribe calls deliver with every entry above the number after, in order, each once. All calls come from the follower's
// goroutine: deliver must not block and must not change its argument. One call may still be running when cancel returns.
// Entries that Prune deletes are not delivered. When a database server crashes and loses entries that were not durable, and
// thus never acknowledged, the log steps back and delivers the entries that replace them under the same numbers.
func (l *Log) Subscribe(after int64, deliver func([]store.Entry)) (cancel func()) {
	s := &subscriber{delivered: after, deliver: deliver}
	l.mu.Lock()
	l.subscribers = append(l.subscribers, s)
	l.mu.Unlock()
	l.wake()
	return func() {
		l.mu.Lock()
		defer l.mu.Unlock()
		// The follower may be iterating over the old slice.
		l.subscribers = slices.DeleteFunc(slices.Clone(l.subscribers), func(other *subscriber) bool { return other == s })
	}
}

// AddPages changes the number of open pages by delta. While it is above 0 the log asks the store more often.
func (l *Log) AddPages(delta int) {
	l.mu.Lock()
	before := l.pages
	l.pages += delta
	l.mu.Unlock()
	if before <= 0 && delta > 0 {
		l.wake()
	}
}

// openPages is the sum of the calls of AddPages.
func (l *Log) openPages() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.pages
}

// Now returns the time by which messages are dated, that of the store's server.
func (l *Log) Now(ctx context.Context) (time.Time, error) { return l.clock.Now(ctx) }

// Ready returns a channel that is closed once the log's position is known. From then on Recent holds at least the last
// entries, if the log has any.
func (l *Log) Ready() <-chan struct{} { return l.ready }

// Recent returns the last entries, oldest first and without a gap: about the last thousand, fewer soon after the start. The
// caller must not change them.
func (l *Log) Recent() []store.Entry {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.recent[:len(l.recent):len(l.recent)]
}

// After returns at most limit entries above n, as store.Store.After does, but only up to the log's position. Numbers that
// are missing among them were deleted. It answers from memory where it can, and otherwise fails with the store's errors.
func (l *Log) After(ctx context.Context, n int64, limit int) ([]store.Entry, error) {
	recent := l.Recent()
	if len(recent) > 0 && n >= recent[0].N-1 {
		rest := recent[min(n-recent[0].N+1, int64(len(recent))):]
		return rest[:min(limit, len(rest))], nil
	}
	l.mu.Lock()
	position := l.position
	l.mu.Unlock()
	entries, err := l.store.After(ctx, n, limit)
	return through(entries, position), err
}

// read returns the entries above n up to the number last, in order, with as many calls of After as that takes. It fails with
// the store's errors.
func (l *Log) read(ctx context.Context, n, last int64) ([]store.Entry, error) {
	var entries []store.Entry
	for n < last {
		more, err := l.store.After(ctx, n, maxBatch)
		if err != nil {
			return nil, err
		}
		if len(more) == 0 {
			break
		}
		n = more[len(more)-1].N
		entries = append(entries, through(more, last)...)
	}
	return entries, nil
}

// through returns the entries with numbers up to last.
func through(entries []store.Entry, last int64) []store.Entry {
	return entries[:len(entries)-len(store.Above(entries, last))]
}

// wake ends the follower's wait.
func (l *Log) wake() {
	select {
	case l.wakeup <- struct{}{}:
	default:
	}
}
