package mongostore

import (
	"context"
	"strconv"
	"time"

	"balanza/services/store"
)

// countDoc is one count. What was added to a counter is the highest number there is of its key and sign, what was taken away
// the same. Numbers are taken by the insert, as the log's are: not every compatible server makes $inc atomic.
type countDoc struct {
	ID      string    `bson:"_id"` // the key, a space, the sign, the number
	Expires time.Time `bson:"expires"`
}

func (d *database) Count(ctx context.Context, key string, n int, expires time.Time) (int, error) {
	if err := store.CheckText(key); err != nil {
		return 0, err
	}
	ctx, cancel := patient(ctx)
	defer cancel()
	added, err := d.count(ctx, key+" +", max(n, 0), expires)
	if err != nil {
		return 0, err
	}
	taken, err := d.count(ctx, key+" -", max(-n, 0), expires)
	return added - taken, err
}

// count inserts the next n numbers behind a prefix and returns the highest then.
func (d *database) count(ctx context.Context, prefix string, n int, expires time.Time) (int, error) {
	id := func(n int64) string { return prefix + strconv.FormatInt(n, 10) }
	for {
		value, err := highest(func(n int64) (bool, error) { return has(ctx, d.counters, id(n)) })
		if err != nil || n == 0 {
			return int(value), err
		}
		docs := make([]any, n)
		for i := range docs {
			docs[i] = countDoc{ID: id(value + int64(i) + 1), Expires: expires}
		}
		done, err := insert(ctx, d.counters, docs)
		if err != nil {
			return 0, err
		}
		n -= done
		if n == 0 {
			return int(value) + done, nil
		}
	}
}
