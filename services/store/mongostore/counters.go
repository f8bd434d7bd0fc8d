package mongostore

import (
	"context"
	"time"

	"go.mongodb.org/mongo-driver/bson"
	"go.mongodb.org/mongo-driver/mongo"
	"go.mongodb.org/mongo-driver/mongo/options"

	"balanza/services/store"
)

// counterDoc is a counter as stored. Its key is the _id.
type counterDoc struct {
	Value int `bson:"value"`
}

// Count adds n with $inc, which the server applies atomically. The first count of a key inserts the counter together with
// its expiry, for Sweep.
func (d *database) Count(ctx context.Context, key string, n int, expires time.Time) (int, error) {
	if err := store.CheckText(key); err != nil {
		return 0, err
	}
	ctx, cancel := withTimeout(ctx)
	defer cancel()
	change := bson.D{
		{Key: "$inc", Value: bson.D{{Key: "value", Value: n}}},
		{Key: "$setOnInsert", Value: bson.D{{Key: "expires", Value: expires}}},
	}
	opts := options.FindOneAndUpdate().SetUpsert(true).SetReturnDocument(options.After)
	for {
		var doc counterDoc
		err := d.counters.FindOneAndUpdate(ctx, byID(key), change, opts).Decode(&doc)
		// Two upserts of one new key can both choose to insert; the one that fails finds the counter at its next try.
		if !mongo.IsDuplicateKeyError(err) {
			return doc.Value, wrap(err)
		}
	}
}
