package main

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"balanza/services/store"
)

// idealStore is a database in memory that only has the log and the process records. Every call to it takes the same time,
// however many there are at a time, so what several logs on it lose they lose to one another. Like mongostore it needs two
// calls to append a batch: one reserves the numbers, and one writes the entries.
type idealStore struct {
	store.Store
	delay time.Duration
	calls atomic.Int64

	mu        sync.Mutex
	entries   []store.Entry // entries[i] has the number i+1; number 0: reserved
	processes map[string]store.Process
}

// call takes the time of a call and then runs it.
func (s *idealStore) call(run func()) {
	s.calls.Add(1)
	time.Sleep(s.delay)
	s.mu.Lock()
	defer s.mu.Unlock()
	run()
}

// Append takes two calls. The bench appends nothing twice, so nothing is looked up.
func (s *idealStore) Append(_ context.Context, entries []store.Entry) ([]store.Entry, error) {
	var first int
	s.call(func() {
		first = len(s.entries)
		s.entries = append(s.entries, make([]store.Entry, len(entries))...)
	})
	stored := make([]store.Entry, len(entries))
	s.call(func() {
		for i, e := range entries {
			e.N = int64(first + i + 1)
			stored[i], s.entries[first+i] = e, e
		}
	})
	return stored, nil
}

// After leaves out what is reserved.
func (s *idealStore) After(_ context.Context, n int64, limit int) (entries []store.Entry, err error) {
	s.call(func() {
		for i := n; i < int64(len(s.entries)) && len(entries) < limit; i++ {
			if s.entries[i].N > 0 {
				entries = append(entries, s.entries[i])
			}
		}
	})
	return entries, nil
}

// Fill is never needed: no process of the bench dies.
func (s *idealStore) Fill(_ context.Context, first, last int64) error {
	return fmt.Errorf("entries %d to %d took over a second to be written", first, last)
}

// Last returns the last number, reserved or not: the log is empty when it is called.
func (s *idealStore) Last(context.Context) (n int64, err error) {
	s.call(func() { n = int64(len(s.entries)) })
	return n, nil
}

// Now is this machine's clock.
func (s *idealStore) Now(context.Context) (time.Time, error) { return time.Now(), nil }

// PutProcess keeps the record for ever: all processes live as long as the store.
func (s *idealStore) PutProcess(_ context.Context, p store.Process) error {
	s.call(func() { s.processes[p.ID] = p })
	return nil
}

// CountProcesses returns the number of all records. No panel is open.
func (s *idealStore) CountProcesses(context.Context, time.Time) (live, panels int, err error) {
	s.call(func() { live = len(s.processes) })
	return live, 0, nil
}

// appendsToIdeal measures that many logs on one ideal store.
func appendsToIdeal(ctx context.Context, delay time.Duration, processes, rate int) error {
	s := &idealStore{delay: delay, processes: map[string]store.Process{}}
	results := make([]appendResult, processes)
	var group errgroup.Group
	var ready sync.WaitGroup
	ready.Add(processes)
	var before atomic.Int64
	for i := range processes {
		group.Go(func() (err error) {
			results[i], err = runLog(ctx, s, float64(rate)/float64(processes), func() {
				ready.Done()
				ready.Wait()
				time.Sleep(settleTime)
				before.CompareAndSwap(0, s.calls.Load())
			})
			return err
		})
	}
	if err := group.Wait(); err != nil {
		return err
	}
	batches, questions := int64(0), int64(0)
	for _, r := range results {
		batches, questions = batches+r.Batches, questions+r.Questions
	}
	calls := float64(s.calls.Load() - before.Load() - questions)
	report(fmt.Sprintf("an ideal store of %v", delay), results, int64(len(s.entries)),
		fmt.Sprintf("; %.2f calls a batch", calls/float64(max(1, batches))))
	return nil
}
