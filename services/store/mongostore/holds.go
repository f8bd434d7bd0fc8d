package mongostore

import (
	"context"
	"maps"
	"slices"
	"time"

	"go.mongodb.org/mongo-driver/bson"
	"go.mongodb.org/mongo-driver/mongo"
	"go.mongodb.org/mongo-driver/mongo/options"

	"balanza/services/store"
)

// hold is the record of what one holder has of one key.
type hold struct {
	ID      string `bson:"_id"` // of both
	Key     string
	N       int
	Expires time.Time
}

// Hold first writes its numbers and then reads those of all holders. Of two processes that ask at the same time, at least
// one sees the number of the other.
func (d *database) Hold(
	ctx context.Context, holder string, counts map[string]int, now, expires time.Time,
) (map[string]int, error) {
	keys := slices.Collect(maps.Keys(counts))
	t, err := d.useFor(ctx, append(keys, holder)...)
	if err != nil || len(keys) == 0 { // MongoDB rejects a write of nothing
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, store.CallTimeout)
	defer cancel()
	var changes []mongo.WriteModel
	for _, key := range keys {
		id := holder + "/" + key
		if n := counts[key]; n > 0 {
			changes = append(changes, mongo.NewReplaceOneModel().SetFilter(byID(id)).SetUpsert(true).
				SetReplacement(hold{ID: id, Key: key, N: n, Expires: expires}))
		} else {
			changes = append(changes, mongo.NewDeleteOneModel().SetFilter(byID(id)))
		}
	}
	if _, err := t.holds.BulkWrite(ctx, changes, options.BulkWrite().SetOrdered(false)); err != nil {
		return nil, wrap(err)
	}
	holds, err := findAll[hold](ctx, t.holds, bson.D{where("key", "$in", keys), where("expires", "$gt", now)}, nil)
	if err != nil {
		return nil, err
	}
	totals := make(map[string]int)
	for _, h := range holds {
		totals[h.Key] += h.N
	}
	return totals, nil
}
