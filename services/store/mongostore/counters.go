package mongostore

import (
	"context"
	"strconv"
	"time"

	"balanza/services/store"
)

// countDoc is one unit of a counter. The units added to a key are numbered 1, 2, 3 …, and so are those subtracted from it:
// the highest number of each sign is its sum. The unique _id of an insert decides which process gets a number, as in the
// log, since not every compatible server makes $inc atomic.
type countDoc struct {
	ID      string    `bson:"_id"` // the key, a space, the sign, the number
	Expires time.Time `bson:"expires"`
}

// Count adds or subtracts n units and returns the difference of both sums. The two are read one after the other, so the
// value may miss a concurrent change of the other sign.
func (d *database) Count(ctx context.Context, key string, n int, expires time.Time) (int, error) {
	if err := store.CheckText(key); err != nil {
		return 0, err
	}
	ctx, cancel := withTimeout(ctx)
	defer cancel()
	added, err := d.count(ctx, key+" +", max(n, 0), expires)
	if err != nil {
		return 0, err
	}
	subtracted, err := d.count(ctx, key+" -", max(-n, 0), expires)
	return added - subtracted, err
}

// count inserts the next n numbers after a prefix and returns the highest number. When another process inserted one of them
// first, count searches the highest number again and inserts the remainder.
func (d *database) count(ctx context.Context, prefix string, n int, expires time.Time) (int, error) {
	id := func(n int64) string { return prefix + strconv.FormatInt(n, 10) }
	for {
		value, err := highest(func(n int64) (bool, error) { return exists(ctx, d.counters, id(n)) })
		if err != nil || n == 0 {
			return int(value), err
		}
		docs := make([]any, n)
		for i := range docs {
			docs[i] = countDoc{ID: id(value + int64(i) + 1), Expires: expires}
		}
		inserted, err := insert(ctx, d.counters, docs)
		if err != nil {
			return 0, err
		}
		n -= inserted
		if n == 0 {
			return int(value) + inserted, nil
		}
	}
}
