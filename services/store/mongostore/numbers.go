package mongostore

import (
	"context"
	"errors"

	"go.mongodb.org/mongo-driver/bson"
	"go.mongodb.org/mongo-driver/mongo"
	"go.mongodb.org/mongo-driver/mongo/options"
)

// highest returns the highest number that is there, of numbers from 1 without a gap, and 0 when there is none. It doubles
// its guess until that is not there, then halves the rest: a few look-ups by _id for any length, on any server.
func highest(there func(n int64) (bool, error)) (int64, error) {
	low, high := int64(0), int64(1) // low is there, high is not known to be
	for {
		ok, err := there(high)
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
		ok, err := there(middle)
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

// highestOf is highest for a long row: it asks for up to fifteen numbers at a time, as a busy server's answers take long but
// come together. there tells how many of the ascending numbers are there before the first that is not.
func highestOf(there func(numbers []int64) (int, error)) (int64, error) {
	const ways, levels = 16, 10 // up to 2^40
	var powers []int64
	for n := int64(1); len(powers) <= levels; n *= ways {
		powers = append(powers, n)
	}
	low, high := int64(0), powers[levels] // low is there, high is taken not to be
	numbers := powers[:levels]
	for {
		i, err := there(numbers)
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

// has tells whether there is a document of that id.
func has[ID string | int64](ctx context.Context, c *mongo.Collection, id ID) (bool, error) {
	onlyID := options.FindOne().SetProjection(bson.D{{Key: "_id", Value: 1}})
	err := c.FindOne(ctx, byID(id), onlyID).Err()
	if errors.Is(err, mongo.ErrNoDocuments) {
		return false, nil
	}
	return err == nil, wrap(err)
}

// insert inserts documents in order, as far as the first that a unique index refuses, and returns how many went in.
func insert(ctx context.Context, c *mongo.Collection, docs []any) (int, error) {
	_, err := c.InsertMany(ctx, docs)
	var refused mongo.BulkWriteException
	if errors.As(err, &refused) && refused.WriteConcernError == nil && mongo.IsDuplicateKeyError(err) {
		return refused.WriteErrors[0].Index, nil
	}
	if err != nil {
		return 0, wrap(err)
	}
	return len(docs), nil
}
