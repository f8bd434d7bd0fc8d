package mongostore

import (
	"context"
	"errors"

	"go.mongodb.org/mongo-driver/bson"
	"go.mongodb.org/mongo-driver/mongo"
	"go.mongodb.org/mongo-driver/mongo/options"
)

// highest returns the highest existing number, of numbers from 1 without a gap, and 0 when there is none. It doubles its
// guess up to a number that does not exist, then bisects: a few look-ups by _id for any length, which every compatible
// server answers from an index.
func highest(exists func(n int64) (bool, error)) (int64, error) {
	low, high := int64(0), int64(1) // low exists (or is 0), high is not checked yet
	for {
		ok, err := exists(high)
		if err != nil {
			return 0, err
		}
		if !ok {
			break
		}
		low, high = high, 2*high
	}
	for low+1 < high {
		middle := low + (high-low)/2
		ok, err := exists(middle)
		switch {
		case err != nil:
			return 0, err
		case ok:
			low = middle
		default:
			high = middle
		}
	}
	return low, nil
}

// highestOf does the same as highest with up to sixteen look-ups at the same time: a busy server's answers take long, but
// come together. existing returns how many of the ascending numbers exist before the first that does not.
func highestOf(existing func(numbers []int64) (int, error)) (int64, error) {
	const ways, levels = 16, 10 // up to 2^40
	var powers []int64
	for n := int64(1); len(powers) <= levels; n *= ways {
		powers = append(powers, n)
	}
	low, high := int64(0), powers[levels] // low exists (or is 0), high is assumed not to
	numbers := powers[:levels]
	for {
		i, err := existing(numbers)
		if err != nil {
			return 0, err
		}
		if i > 0 {
			low = numbers[i-1]
		}
		if i < len(numbers) {
			high = numbers[i]
		}
		if low+1 >= high {
			return low, nil
		}
		step := max(1, (high-low)/ways)
		numbers = nil
		for n := low + step; n < high && len(numbers) < ways; n += step {
			numbers = append(numbers, n)
		}
	}
}

// exists reports whether the collection has a document of that _id. It transfers nothing but the _id.
func exists[ID string | int64](ctx context.Context, c *mongo.Collection, id ID) (bool, error) {
	onlyID := options.FindOne().SetProjection(bson.D{{Key: "_id", Value: 1}})
	err := c.FindOne(ctx, byID(id), onlyID).Err()
	if errors.Is(err, mongo.ErrNoDocuments) {
		return false, nil
	}
	return err == nil, wrap(err)
}

// insert inserts documents in order up to the first that a unique index rejects, and returns how many it inserted. A
// duplicate key is no error to its callers: it means that another process has the number, or that the entry is stored
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
