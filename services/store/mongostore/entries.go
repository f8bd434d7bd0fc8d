package mongostore

import (
	"context"
	"errors"

	"go.mongodb.org/mongo-driver/bson"
	"go.mongodb.org/mongo-driver/mongo"
	"go.mongodb.org/mongo-driver/mongo/options"

	"balanza/services/store"
)

// Append inserts the entries under their numbers. Of two processes that append at the same number the unique _id lets one
// succeed.
func (d *database) Append(ctx context.Context, last int64, entries []store.Entry) (int, error) {
	docs := make([]any, len(entries))
	for i, e := range entries {
		if err := e.Check(); err != nil {
			return 0, err
		}
		e.N = last + int64(i) + 1
		docs[i] = e
	}
	if len(docs) == 0 {
		return 0, nil
	}
	ctx, cancel := withTimeout(ctx)
	defer cancel()
	if err := d.ensureIndexes(ctx); err != nil {
		return 0, err
	}
	// The unique _id rejects a number that exists, but not one that would leave a gap.
	if last > 0 {
		err := d.entries.FindOne(ctx, byID(last), options.FindOne().SetProjection(bson.D{{Key: "_id", Value: 1}})).Err()
		if errors.Is(err, mongo.ErrNoDocuments) {
			return 0, nil
		}
		if err != nil {
			return 0, wrap(err)
		}
	}
	return insert(ctx, d.entries, docs)
}

// insert inserts documents in order up to the first that a unique index rejects, and returns how many it inserted. A
// duplicate key is no error to its caller: it means that another process has the number, or that the entry is stored
// already. A write concern error beside it is one, since the documents before may then be lost in a failover.
func insert(ctx context.Context, c *mongo.Collection, docs []any) (int, error) {
	_, err := c.InsertMany(ctx, docs)
	bulk, ok := errors.AsType[mongo.BulkWriteException](err)
	if ok && bulk.WriteConcernError == nil && mongo.IsDuplicateKeyError(err) {
		return bulk.WriteErrors[0].Index, nil
	}
	if err != nil {
		return 0, wrap(err)
	}
	return len(docs), nil
}

// readBatch is how many entries a cursor returns at a time. What arrived before a timeout is returned, so that a caller
// that is far behind gets on however slow the server is.
const readBatch = 100

// After reads the range above n by the index of _id, as far as it has no gap.
func (d *database) After(ctx context.Context, n int64, limit int) ([]store.Entry, error) {
	if limit <= 0 { // which MongoDB takes for no limit
		return nil, nil
	}
	ctx, cancel := withTimeout(ctx)
	defer cancel()
	aboveN := bson.D{{Key: "_id", Value: bson.D{{Key: "$gt", Value: n}}}}
	byNumber := options.Find().SetSort(bson.D{{Key: "_id", Value: 1}}).SetLimit(int64(limit)).
		SetBatchSize(int32(min(limit, readBatch)))
	cursor, err := d.entries.Find(ctx, aboveN, byNumber)
	if err != nil {
		return nil, wrap(err)
	}
	defer cursor.Close(ctx)
	entries := []store.Entry{}
	for cursor.Next(ctx) {
		var e store.Entry
		if err := cursor.Decode(&e); err != nil {
			return nil, wrap(err)
		}
		// A scan that runs during an insert may return a later entry without an earlier one. The entries after the gap
		// come with the next call.
		if e.N != n+int64(len(entries))+1 {
			return entries, nil
		}
		entries = append(entries, e)
	}
	if len(entries) > 0 {
		return entries, nil
	}
	return entries, wrap(cursor.Err())
}

// Last reads the highest number by the index of _id.
func (d *database) Last(ctx context.Context) (int64, error) {
	ctx, cancel := withTimeout(ctx)
	defer cancel()
	last := options.FindOne().SetSort(bson.D{{Key: "_id", Value: -1}}).SetProjection(bson.D{{Key: "_id", Value: 1}})
	var e store.Entry
	err := d.entries.FindOne(ctx, bson.D{}, last).Decode(&e)
	if errors.Is(err, mongo.ErrNoDocuments) {
		return 0, nil
	}
	return e.N, wrap(err)
}

// EntryByClientID uses the unique index that ensureIndexes creates.
func (d *database) EntryByClientID(ctx context.Context, author, clientID string) (store.Entry, error) {
	if err := store.CheckText(author, clientID); err != nil {
		return store.Entry{}, err
	}
	ctx, cancel := withTimeout(ctx)
	defer cancel()
	var e store.Entry
	err := d.entries.FindOne(ctx, bson.D{{Key: "author", Value: author}, {Key: "clientId", Value: clientID}}).Decode(&e)
	return e, wrap(err)
}
