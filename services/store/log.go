package store

import (
	"context"
	"crypto/rand"
	"fmt"
	"slices"
	"sync"
	"time"
)

// Log is a process's end of the store's log. One goroutine, Run, both appends and follows: an Append that succeeds at the
// number it knows proves that nothing else came in between, so the two share one position and need no agreement.
type Log struct {
	store    Store
	requests chan *request
	wake     chan struct{} // of capacity 1: cuts the wait for the next question short
	ready    chan struct{} // closed when it is known where the log stands
	ended    chan struct{} // closed when Run ends

	mu     sync.Mutex
	recent []Entry // without a gap; its last one is where the log was followed to
	subs   []*subscriber
	pages  int

	// What follows belongs to Run.
	queue   []*waiting           // to be appended, in order
	waiting map[entryID]*waiting // the same by identity
	active  time.Time            // when an entry came last
	behind  bool                 // there may be more than was read last
	// Others that append at the same time: see won and lost.
	crowd  int       // how many there seem to be; each step doubles the time between two turns
	losses int       // in a row
	turnAt time.Time // no append before
}

type entryID struct{ author, clientID string }

func (e Entry) id() entryID { return entryID{e.Author, e.ClientID} }

// request is one caller's Append.
type request struct {
	ctx    context.Context
	entry  Entry
	result chan result // of capacity 1: the caller may be gone
}

type result struct {
	entry Entry
	err   error
}

// waiting is an entry that is not known to be stored, with all who asked for it.
type waiting struct {
	entry    Entry
	requests []*request
}

type subscriber struct {
	after int64 // what was delivered; negative: begin with what is kept
	f     func([]Entry)
}

// NewLog returns the log of a store. It does nothing until Run is called.
func NewLog(s Store) *Log {
	return &Log{
		store:    s,
		requests: make(chan *request, maxBatch),
		wake:     make(chan struct{}, 1),
		ready:    make(chan struct{}),
		ended:    make(chan struct{}),
		waiting:  map[entryID]*waiting{},
	}
}

// Append stores an entry and returns it with its number. An entry of the same Author and ClientID that is there already is
// returned instead, so it is safe to ask again. An empty ClientID gets a random one. Append goes on trying until ctx ends
// and then fails with ErrUnavailable, which means: not known to be stored.
func (l *Log) Append(ctx context.Context, e Entry) (Entry, error) { return l.Submit(ctx, e)() }

// Submit is the first half of Append: the entry has its place in the line, before whatever is submitted after Submit has
// returned. The function that it returns is the rest, to be called once.
func (l *Log) Submit(ctx context.Context, e Entry) (stored func() (Entry, error)) {
	if err := e.Check(); err != nil {
		return func() (Entry, error) { return Entry{}, err }
	}
	if e.ClientID == "" {
		e.ClientID = rand.Text()
	}
	if e.Message != nil { // every process is to see the same, so this one sees it as the store keeps it
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
	return func() (Entry, error) { return l.await(r) }
}

// await waits for the result of a request.
func (l *Log) await(r *request) (Entry, error) {
	select {
	case res := <-r.result:
		return res.entry, res.err
	case <-r.ctx.Done():
	case <-l.ended:
	}
	select {
	case res := <-r.result: // it came at the same moment
		return res.entry, res.err
	default:
	}
	if err := r.ctx.Err(); err != nil {
		return Entry{}, fmt.Errorf("%w: %w", ErrUnavailable, err)
	}
	return Entry{}, fmt.Errorf("%w: the log is closed", ErrUnavailable)
}

// Subscribe has f called with every entry above the number after, in order, without a gap, each once; a negative after
// begins with what Recent holds. All calls come from Run's goroutine: f must not block, nor change what it is given.
// After cancel one call that is under way may still end. Only a server that lost entries in a crash before they were
// durable (so none that was acknowledged) makes the log step back and deliver their numbers again with what took their places.
func (l *Log) Subscribe(after int64, f func([]Entry)) (cancel func()) {
	s := &subscriber{after: after, f: f}
	l.mu.Lock()
	l.subs = append(l.subs, s)
	l.mu.Unlock()
	l.nudge()
	return func() {
		l.mu.Lock()
		defer l.mu.Unlock()
		// Run may be walking over the old slice.
		l.subs = slices.DeleteFunc(slices.Clone(l.subs), func(other *subscriber) bool { return other == s })
	}
}

// Watching tells that delta more pages are open; while there are any, the log asks for news more often.
func (l *Log) Watching(delta int) {
	l.mu.Lock()
	before := l.pages
	l.pages += delta
	l.mu.Unlock()
	if before <= 0 && delta > 0 {
		l.nudge()
	}
}

// Ready is closed when the store has said where the log stands. Recent then holds at least the last entries, if there are any.
func (l *Log) Ready() <-chan struct{} { return l.ready }

// Recent returns the last entries, oldest first: the last thousand or somewhat more, fewer soon after the start. The caller must
// not change them.
func (l *Log) Recent() []Entry {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.recent[:len(l.recent):len(l.recent)]
}

// After is the store's After up to where this process has followed the log, from memory where it can be.
func (l *Log) After(ctx context.Context, n int64, limit int) ([]Entry, error) {
	recent := l.Recent()
	if len(recent) == 0 || n < recent[0].N-1 {
		return l.store.After(ctx, n, limit)
	}
	from := min(n-recent[0].N+1, int64(len(recent)))
	rest := recent[from:]
	return rest[:min(limit, len(rest))], nil
}

// nudge cuts Run's wait short.
func (l *Log) nudge() {
	select {
	case l.wake <- struct{}{}:
	default:
	}
}
