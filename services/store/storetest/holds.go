package storetest

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"balanza/services/store"
)

// testHolds proves that the numbers of all holders add up for each key, that a holder replaces its own, and that they end.
func testHolds(t *testing.T, open func() store.Store) {
	a, b := open(), open()
	soon, late := now.Add(time.Minute), now.Add(time.Hour)
	for i, step := range []struct {
		s       store.Store
		holder  string
		counts  map[string]int
		at      time.Time
		expires time.Time
		want    map[string]int
	}{
		{a, "A", map[string]int{"ana": 2, "beto": 1}, now, soon, map[string]int{"ana": 2, "beto": 1}},
		{b, "B", map[string]int{"ana": 3}, now, late, map[string]int{"ana": 5}},
		{a, "A", map[string]int{"ana": 1, "eva": 0}, now, soon, map[string]int{"ana": 4}},
		{b, "B", map[string]int{"ana": 4}, soon.Add(-time.Millisecond), late, map[string]int{"ana": 5}},
		{b, "B", map[string]int{"ana": 4, "beto": 1}, soon, late, map[string]int{"ana": 4, "beto": 1}}, // A's have ended
		{a, "A", map[string]int{"ana": 2}, soon, late, map[string]int{"ana": 6}},
		{b, "B", map[string]int{"ana": 0, "beto": 0}, soon, late, map[string]int{"ana": 2}},
		{b, "B", map[string]int{"ana": 0}, soon, late, map[string]int{"ana": 2}}, // again
		{a, "A", map[string]int{"ana": 0}, soon, late, nil},
		{a, "A", nil, soon, late, nil},
		{a, "A/ana", map[string]int{"'s": 1}, now, late, map[string]int{"'s": 1}},
	} {
		got, err := step.s.Hold(ctx, step.holder, step.counts, step.at, step.expires)
		must(t, err)
		if len(got)+len(step.want) > 0 {
			wantEqual(t, fmt.Sprintf("step %d", i+1), got, step.want)
		}
	}

	// A sweep deletes what has ended, and nothing else.
	sum := func(key string, at time.Time) int {
		t.Helper()
		totals, err := a.Hold(ctx, "asks", map[string]int{key: 0}, at, late)
		must(t, err)
		return totals[key]
	}
	_, err := b.Hold(ctx, "B", map[string]int{"ana": 7}, now, soon)
	must(t, err)
	_, err = a.Sweep(ctx, soon)
	must(t, err)
	wantEqual(t, "swept", sum("ana", now), 0)
	wantEqual(t, "not swept", sum("'s", now), 1)

	for _, text := range []string{"a\x00b", "\xff"} {
		_, err := a.Hold(ctx, text, map[string]int{"ana": 1}, now, late)
		wantError(t, fmt.Sprintf("holder %q", text), err, store.ErrInvalid)
		_, err = a.Hold(ctx, "A", map[string]int{text: 1}, now, late)
		wantError(t, fmt.Sprintf("key %q", text), err, store.ErrInvalid)
	}
	cancelled, cancel := context.WithCancel(ctx)
	cancel()
	_, err = a.Hold(cancelled, "A", map[string]int{"ana": 1}, now, late)
	wantError(t, "with a cancelled context", err, store.ErrUnavailable)
	wantEqual(t, "after the calls that failed", sum("ana", now), 0)
}

// testConcurrentHolds proves that no number is lost when eight processes write theirs at the same time, and that each
// process's answer has its own.
func testConcurrentHolds(t *testing.T, open func() store.Store) {
	const processes, keys = 8, 50
	stores := make([]store.Store, processes)
	for i := range stores {
		stores[i] = open()
	}
	counts := make(map[string]int)
	for i := range keys {
		counts[fmt.Sprint(i)] = i + 1
	}
	must(t, errors.Join(concurrently(processes, func(i int) error {
		totals, err := stores[i].Hold(ctx, fmt.Sprint("holder", i), counts, now, now.Add(time.Hour))
		for key, n := range counts {
			if err == nil && (totals[key] < n || totals[key] > processes*n) {
				return fmt.Errorf("process %d sees %d of key %s", i, totals[key], key)
			}
		}
		return err
	})...))
	totals, err := stores[0].Hold(ctx, "holder0", counts, now, now.Add(time.Hour))
	must(t, err)
	for key, n := range counts {
		wantEqual(t, "key "+key, totals[key], processes*n)
	}
}
