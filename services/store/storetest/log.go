package storetest

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"balanza/services/store"
)

// Write appends n messages through a Log of its own, four at a time, and returns their numbers by author and client id.
// It calls acked, which may be nil, at each. Like a page it asks again when the store is unavailable, until ctx ends.
func Write(ctx context.Context, s store.Store, author string, n int, acked func(clientID string, n int64)) (map[string]int64, error) {
	log, stop := follow(s)
	defer stop()
	var next atomic.Int64
	var mu sync.Mutex
	numbers := map[string]int64{}
	errs := atOnce(4, func(int) error {
		for {
			i := next.Add(1)
			if i > int64(n) {
				return nil
			}
			e, err := appendUntil(ctx, log, said(author, fmt.Sprint(i)))
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

// appendUntil is a page's way: it gives each try a second, and tries again with the same client id.
func appendUntil(ctx context.Context, log *store.Log, e store.Entry) (store.Entry, error) {
	for {
		try, cancel := context.WithTimeout(ctx, time.Second)
		stored, err := log.Append(try, e)
		cancel()
		if err == nil || !errors.Is(err, store.ErrUnavailable) || ctx.Err() != nil {
			return stored, err
		}
	}
}

// follow runs a log of its own over the store, as a process with an open page does.
func follow(s store.Store) (log *store.Log, stop func()) {
	log = store.NewLog(s)
	log.Watching(1)
	running, cancel := context.WithCancel(ctx)
	done := make(chan bool)
	go func() {
		log.Run(running)
		close(done)
	}()
	return log, func() {
		cancel()
		<-done
	}
}

// listener keeps what a subscription delivers.
type listener struct {
	mu      sync.Mutex
	entries []store.Entry
	more    chan bool // of capacity 1
}

func listen(log *store.Log, after int64) *listener {
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

// wait returns what was delivered once it is n entries, or what there is after half a minute.
func (l *listener) wait(n int) []store.Entry {
	late := time.After(30 * time.Second)
	for {
		l.mu.Lock()
		entries := l.entries
		l.mu.Unlock()
		if len(entries) >= n {
			return entries
		}
		select {
		case <-l.more:
		case <-late:
			return entries
		}
	}
}

func testLogs(t *testing.T, open func() store.Store) {
	const logs, each = 8, 12
	var all []*store.Log
	var listeners []*listener
	for range logs {
		log, stop := follow(open())
		defer stop()
		all = append(all, log)
		listeners = append(listeners, listen(log, 0))
	}
	acked := make([]map[string]int64, logs)
	must(t, errors.Join(atOnce(logs, func(i int) error {
		acked[i] = map[string]int64{}
		for c := range each {
			// Each author is on two processes at once and says the same on both: it is said once.
			author, id := fmt.Sprint("author ", i/2), fmt.Sprint(c)
			e, err := all[i].Append(ctx, said(author, id))
			if err != nil {
				return err
			}
			acked[i][key(author, id)] = e.N
		}
		return nil
	})...))
	s := open()
	Verify(t, s, acked...)
	want := read(t, s, 0, 500)
	wantEqual(t, "entries", len(want), logs/2*each)
	for i, l := range listeners {
		wantEqual(t, fmt.Sprint("seen by process ", i), l.wait(len(want)), want)
	}
	late := listen(all[0], 30)
	wantEqual(t, "seen by one who had 30", late.wait(len(want)-30), want[30:])
	again, err := all[3].Append(ctx, said("author 0", "5"))
	must(t, err)
	wantEqual(t, "said again, elsewhere", again.N, acked[0][key("author 0", "5")])
}

// flaky fails a third of the calls of the log, by chance: before or after it did what was asked.
type flaky struct{ store.Store }

var errFlaky = fmt.Errorf("%w: on purpose", store.ErrUnavailable)

func (f flaky) Append(ctx context.Context, last int64, entries []store.Entry) (int, error) {
	switch rand.IntN(6) {
	case 0:
		return 0, errFlaky
	case 1:
		f.Store.Append(ctx, last, entries)
		return 0, errFlaky
	}
	return f.Store.Append(ctx, last, entries)
}

func (f flaky) After(ctx context.Context, n int64, limit int) ([]store.Entry, error) {
	if rand.IntN(3) == 0 {
		return nil, errFlaky
	}
	return f.Store.After(ctx, n, limit)
}

func testLogThroughFailures(t *testing.T, open func() store.Store) {
	const writers, each = 3, 15
	log, stop := follow(flaky{open()})
	defer stop()
	seen := listen(log, 0)
	stores := make([]store.Store, writers)
	for i := range stores {
		stores[i] = flaky{open()}
	}
	acked := make([]map[string]int64, writers)
	must(t, errors.Join(atOnce(writers, func(i int) (err error) {
		acked[i], err = Write(ctx, stores[i], fmt.Sprint("author ", i), each, nil)
		return err
	})...))
	s := open()
	Verify(t, s, acked...)
	want := read(t, s, 0, 500)
	wantEqual(t, "entries", len(want), writers*each)
	wantEqual(t, "seen", seen.wait(len(want)), want)
}
