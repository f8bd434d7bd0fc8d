package eventlog

import (
	"context"
	"time"

	"balanza/services/store"
)

const (
	// keepEvents is how long the log keeps entries that are not messages: pages and processes read the products and
	// sessions themselves when they start or come back.
	keepEvents = 24 * time.Hour
	// keepRecent is how many of the last numbers Prune leaves alone, so that a gap among them is always a hole.
	keepRecent = 1000
)

// Prune deletes entries that are not messages after a day and, when keepMessages is above 0, messages of that age. What
// comes after a number n then still holds everything that was not deleted. It returns how many entries it deleted and
// fails with the store's errors.
func Prune(ctx context.Context, s store.Store, now time.Time, keepMessages time.Duration) (deleted int, err error) {
	last, err := s.Last(ctx)
	if err != nil {
		return 0, err
	}
	for n := store.DeleteBatch; n == store.DeleteBatch; deleted += n {
		if n, err = s.DeleteEvents(ctx, last-keepRecent, now.Add(-keepEvents)); err != nil {
			return deleted, err
		}
	}
	for keepMessages > 0 {
		oldest, err := s.After(ctx, 0, maxBatch)
		if err != nil {
			return deleted, err
		}
		end := lastOlder(through(oldest, last-keepRecent), now.Add(-keepMessages))
		if end == 0 {
			break
		}
		n, err := s.DeleteEntries(ctx, end)
		if err != nil {
			return deleted, err
		}
		deleted += n
	}
	return deleted, nil
}

// lastOlder returns the number of the last message before the first that is not older than the time, 0 if there is none.
func lastOlder(entries []store.Entry, before time.Time) (n int64) {
	for _, e := range entries {
		if e.Message == nil {
			continue
		}
		if !e.Message.Time.Before(before) {
			break
		}
		n = e.N
	}
	return n
}
