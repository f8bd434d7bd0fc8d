package storetest

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"balanza/services/eventlog"
	"balanza/services/store"
)

// Write appends n messages of an author, with the client ids 1 to n, through a Log of its own, four at a time. It returns
// their numbers by "author clientID", the argument of Verify, and calls acked, unless it is nil, for each acknowledged
// message. Like a page it repeats a message when the store is unavailable, until ctx ends.
func Write(ctx context.Context, s store.Store, author string, n int, acked func(clientID string, n int64)) (map[string]int64, error) {
	log, stop := startLog(s)
	defer stop()
	// The goroutines share one sequence of client ids, so that their messages reach the Log in batches.
	var next atomic.Int64
	var mu sync.Mutex
	numbers := map[string]int64{}
	errs := concurrently(4, func(int) error {
		for {
			i := next.Add(1)
			if i > int64(n) {
				return nil
			}
			e, err := appendUntil(ctx, log, message(author, fmt.Sprint(i)))
			if err != nil {
				return err
			}
			mu.Lock()
			numbers[key(e.Author, e.ClientID)] = e.N
			if acked != nil {
				acked(e.ClientID, e.N)
			}
			mu.Unlock()
		}
	})
	return numbers, errors.Join(errs...)
}

// appendUntil appends as a page does: each try has a second, and the next try has the same client id.
func appendUntil(ctx context.Context, log *eventlog.Log, e store.Entry) (store.Entry, error) {
	for {
		try, cancel := context.WithTimeout(ctx, time.Second)
		stored, err := log.Append(try, e)
		cancel()
		if err == nil || !errors.Is(err, store.ErrUnavailable) || ctx.Err() != nil {
			return stored, err
		}
	}
}

// startLog runs a new Log of the store, as a process with an open page does. stop returns after Run has ended, so that the
// store can be closed.
func startLog(s store.Store) (log *eventlog.Log, stop func()) {
	clock := store.NewClock(s, slog.New(slog.DiscardHandler))
	log = eventlog.New(s, clock, func() int { return 1 })
	log.AddPages(1) // otherwise it polls once a second
	running, cancel := context.WithCancel(ctx)
	done := make(chan bool)
	go func() {
		log.Run(running) // its error is always nil
		close(done)
	}()
	return log, func() {
		cancel()
		<-done
	}
}

// listener collects the entries of a subscription.
type listener struct {
	mu      sync.Mutex
	entries []store.Entry
	more    chan bool // capacity 1: a token in it reports new entries
}

// listen subscribes to the entries of a log above the number after.
func listen(log *eventlog.Log, after int64) *listener {
	l := &listener{more: make(chan bool, 1)}
	log.Subscribe(after, func(entries []store.Entry) {
		l.mu.Lock()
		l.entries = append(l.entries, entries...)
		l.mu.Unlock()
		select {
		case l.more <- true:
		default:
		}
	})
	return l
}

// wait returns the delivered entries as soon as they are n, or those of the first half minute.
func (l *listener) wait(n int) []store.Entry {
	timeout := time.After(30 * time.Second)
	for {
		l.mu.Lock()
		entries := l.entries
		l.mu.Unlock()
		if len(entries) >= n {
			return entries
		}
		select {
		case <-l.more:
		case <-timeout:
			return entries
		}
	}
}

// testConcurrentLogs proves that all processes deliver the same entries in the same order, that a message posted through two
// processes is stored once, and that a late subscriber receives exactly what it lacks.
func testConcurrentLogs(t *testing.T, open func() store.Store) {
	const logs, each = 8, 12 // processes, and messages posted through each
	var all []*eventlog.Log
	var listeners []*listener
	for range logs {
		log, stop := startLog(open())
		defer stop()
		all = append(all, log)
		listeners = append(listeners, listen(log, 0))
	}
	acked := make([]map[string]int64, logs)
	must(t, errors.Join(concurrently(logs, func(i int) error {
		acked[i] = map[string]int64{}
		for c := range each {
			// Each author posts the same messages through two processes.
			author, id := fmt.Sprint("author ", i/2), fmt.Sprint(c)
			e, err := all[i].Append(ctx, message(author, id))
			if err != nil {
				return err
			}
			acked[i][key(author, id)] = e.N
		}
		return nil
	})...))
	// Half of the appends found an entry that the other process had stored.
	s := open()
	wantEqual(t, "messages", len(Verify(t, s, acked...)), logs/2*each)
	want := read(t, s, 0, 500)
	// Each process delivers its own entries and those of all others in one order.
	for i, l := range listeners {
		wantEqual(t, fmt.Sprint("delivered by process ", i), l.wait(len(want)), want)
	}
	// A page that reconnects asks for what follows its last entry.
	late := listen(all[0], 30)
	wantEqual(t, "delivered to a subscriber that has 30", late.wait(len(want)-30), want[30:])
	repeated, err := all[3].Append(ctx, message("author 0", "5"))
	must(t, err)
	wantEqual(t, "repeated through another process", repeated.N, acked[0][key("author 0", "5")])
}

// flaky is a store whose log fails a third of its calls at random. A failed Append has written its entries or not, which is
// what a broken connection looks like.
type flaky struct{ store.Store }

// errFlaky wraps ErrUnavailable, so a Log handles it like an outage.
var errFlaky = fmt.Errorf("%w: injected failure", store.ErrUnavailable)

// Append fails a sixth of its calls before the write and a sixth after it.
func (f flaky) Append(ctx context.Context, entries []store.Entry) ([]store.Entry, error) {
	switch rand.IntN(6) {
	case 0:
		return nil, errFlaky
	case 1: // the entries are written and the answer is lost
		f.Store.Append(ctx, entries)
		return nil, errFlaky
	}
	return f.Store.Append(ctx, entries)
}

// After fails a third of its calls.
func (f flaky) After(ctx context.Context, n int64, limit int) ([]store.Entry, error) {
	if rand.IntN(3) == 0 {
		return nil, errFlaky
	}
	return f.Store.After(ctx, n, limit)
}

// testLogThroughFailures proves that acknowledged messages are neither lost nor stored twice when any call may fail, with or
// without effect, and that subscribers receive all of them.
func testLogThroughFailures(t *testing.T, open func() store.Store) {
	const writers, each = 3, 15 // processes, and messages of each
	// One process only reads, and the others write.
	log, stop := startLog(flaky{open()})
	defer stop()
	delivered := listen(log, 0)
	// Every process has a flaky store of its own, so that they fail at different times.
	stores := make([]store.Store, writers)
	for i := range stores {
		stores[i] = flaky{open()}
	}
	acked := make([]map[string]int64, writers)
	must(t, errors.Join(concurrently(writers, func(i int) (err error) {
		acked[i], err = Write(ctx, stores[i], fmt.Sprint("author ", i), each, nil)
		return err
	})...))
	// The check itself uses a store that does not fail.
	s := open()
	wantEqual(t, "messages", len(Verify(t, s, acked...)), writers*each)
	want := read(t, s, 0, 500)
	wantEqual(t, "delivered", delivered.wait(len(want)), want)
}
