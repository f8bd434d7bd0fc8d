package mongostore

import (
	"context"
	"errors"
	"slices"
	"time"

	"go.mongodb.org/mongo-driver/bson"
	"go.mongodb.org/mongo-driver/mongo"
	"go.mongodb.org/mongo-driver/mongo/options"
	"golang.org/x/sync/errgroup"

	"balanza/services/store"
)

// A range of entries costs some servers a scan of all. So After asks for entries each by its _id, lookUps at the same time, and for a
// range only when there may be many more. If that took longer than the same number of look-ups would have, it does not so again
// until rangesAgain has passed.
const (
	lookUps     = 16
	many        = 100
	rangesAgain = time.Minute
)

type entryDoc struct {
	N        int64       `bson:"_id"`
	Kind     store.Kind  `bson:"kind"`
	Subject  string      `bson:"subject"`
	Message  *messageDoc `bson:"message,omitempty"`
	Author   string      `bson:"author"`
	ClientID string      `bson:"clientId"`
}

type messageDoc struct {
	Author authorDoc `bson:"author"`
	Text   string    `bson:"text"`
	Time   time.Time `bson:"time"`
}

func (d *database) Append(ctx context.Context, last int64, entries []store.Entry) (int, error) {
	docs := make([]any, len(entries))
	for i, e := range entries {
		if err := e.Check(); err != nil {
			return 0, err
		}
		docs[i] = encode(e, last+int64(i)+1)
	}
	if len(docs) == 0 {
		return 0, nil
	}
	ctx, cancel := patient(ctx)
	defer cancel()
	if err := d.needIndexes(ctx); err != nil {
		return 0, err
	}
	// An insert does not see a gap that it would leave.
	if last > 0 {
		if there, err := has(ctx, d.entries, last); err != nil || !there {
			return 0, err
		}
	}
	return insert(ctx, d.entries, docs)
}

func (d *database) After(ctx context.Context, n int64, limit int) ([]store.Entry, error) {
	ctx, cancel := patient(ctx)
	defer cancel()
	begun := time.Now()
	entries := []store.Entry{}
	count := 1 // mostly there is none, or one
	for len(entries) < limit && time.Since(begun) < store.Patience/2 {
		last, found, rest := n+int64(len(entries)), len(entries), limit-len(entries)
		if found > lookUps && rest > many && time.Now().UnixNano() > d.noRangeUntil.Load() {
			each := time.Since(begun) / time.Duration(found)
			asked := time.Now()
			more, err := d.readRange(ctx, last, rest)
			if err != nil || time.Since(asked) > each*time.Duration(max(many, len(more))) {
				d.noRangeUntil.Store(time.Now().Add(rangesAgain).UnixNano())
			}
			return append(entries, more...), nil
		}
		count = min(count, rest)
		more, err := d.lookUp(ctx, last, count)
		if err != nil && found == 0 {
			return nil, err
		}
		entries = append(entries, more...)
		if len(more) < count {
			break
		}
		count = lookUps
	}
	return entries, nil
}

// readRange returns up to limit entries above n.
func (d *database) readRange(ctx context.Context, n int64, limit int) ([]store.Entry, error) {
	above := bson.D{{Key: "_id", Value: bson.D{{Key: "$gt", Value: n}}}}
	inOrder := options.Find().SetSort(bson.D{{Key: "_id", Value: 1}}).SetLimit(int64(limit)).SetBatchSize(int32(limit))
	docs, err := findAll[entryDoc](ctx, d.entries, above, inOrder)
	if err != nil {
		return nil, err
	}
	var entries []store.Entry
	for _, doc := range docs {
		// A number may be missing in what was read while it was written: then what is above it comes later.
		if doc.N != n+int64(len(entries))+1 {
			break
		}
		entries = append(entries, decode(doc))
	}
	return entries, nil
}

// lookUp returns the count entries above n, or those before the first that is not there. It asks for all at the same time: one
// after another, a busy server's answers take longer than a call may.
func (d *database) lookUp(ctx context.Context, n int64, count int) ([]store.Entry, error) {
	docs := make([]*entryDoc, max(0, count))
	var group errgroup.Group
	for i := range docs {
		group.Go(func() error {
			var doc entryDoc
			err := d.entries.FindOne(ctx, byID(n+1+int64(i))).Decode(&doc)
			if err == nil {
				docs[i] = &doc
			}
			if errors.Is(err, mongo.ErrNoDocuments) {
				err = nil
			}
			return wrap(err)
		})
	}
	if err := group.Wait(); err != nil {
		return nil, err
	}
	var entries []store.Entry
	for _, doc := range docs {
		if doc == nil {
			break
		}
		entries = append(entries, decode(*doc))
	}
	return entries, nil
}

func (d *database) Last(ctx context.Context) (int64, error) {
	ctx, cancel := patient(ctx)
	defer cancel()
	return highestOf(func(numbers []int64) (int, error) {
		there := make([]bool, len(numbers))
		var group errgroup.Group
		for i, n := range numbers {
			group.Go(func() (err error) {
				there[i], err = has(ctx, d.entries, n)
				return err
			})
		}
		err := group.Wait()
		if i := slices.Index(there, false); i >= 0 {
			return i, err
		}
		return len(there), err
	})
}

func (d *database) Said(ctx context.Context, author, clientID string) (store.Entry, error) {
	if err := store.CheckText(author, clientID); err != nil {
		return store.Entry{}, err
	}
	ctx, cancel := patient(ctx)
	defer cancel()
	var doc entryDoc
	err := d.entries.FindOne(ctx, bson.D{{Key: "author", Value: author}, {Key: "clientId", Value: clientID}}).Decode(&doc)
	if err != nil {
		return store.Entry{}, wrap(err)
	}
	return decode(doc), nil
}

func encode(e store.Entry, n int64) entryDoc {
	doc := entryDoc{N: n, Kind: e.Kind, Subject: e.Subject, Author: e.Author, ClientID: e.ClientID}
	if e.Message != nil {
		doc.Message = &messageDoc{Author: authorDoc(e.Message.Author), Text: e.Message.Text, Time: e.Message.Time}
	}
	return doc
}

func decode(doc entryDoc) store.Entry {
	e := store.Entry{N: doc.N, Kind: doc.Kind, Subject: doc.Subject, Author: doc.Author, ClientID: doc.ClientID}
	if doc.Message != nil {
		e.Message = &store.Message{
			Author: store.Author(doc.Message.Author), Text: doc.Message.Text, Time: doc.Message.Time,
		}
	}
	return e
}
