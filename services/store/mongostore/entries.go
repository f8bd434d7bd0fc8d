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

// A range query costs some compatible servers a scan of all entries. After therefore looks entries up by _id, several at the
// same time, and uses a range query only when many more entries may follow. When the range query took longer than look-ups
// would have, After uses none for a while.
const (
	parallelLookUps = 16
	rangeThreshold  = 100 // entries still wanted, above which a range query is tried
	rangeRetryAfter = time.Minute
)

// entryDoc is an entry as stored. Its number is the _id, whose unique index makes every number write-once.
type entryDoc struct {
	N        int64       `bson:"_id"`
	Kind     store.Kind  `bson:"kind"`
	Subject  string      `bson:"subject"`
	Message  *messageDoc `bson:"message,omitempty"`
	Author   string      `bson:"author"`
	ClientID string      `bson:"clientId"`
}

// messageDoc is part of an entryDoc.
type messageDoc struct {
	Author authorDoc `bson:"author"`
	Text   string    `bson:"text"`
	Time   time.Time `bson:"time"`
}

// Append inserts the entries under their numbers. Of two processes that append at the same number the unique _id lets one
// succeed.
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
	ctx, cancel := withTimeout(ctx)
	defer cancel()
	if err := d.ensureIndexes(ctx); err != nil {
		return 0, err
	}
	// The unique _id rejects a number that exists, but not one that would leave a gap.
	if last > 0 {
		if ok, err := exists(ctx, d.entries, last); err != nil || !ok {
			return 0, err
		}
	}
	return insert(ctx, d.entries, docs)
}

// After returns what it has read when half of the timeout is over: the caller asks again, and gets on however slow the
// server is.
func (d *database) After(ctx context.Context, n int64, limit int) ([]store.Entry, error) {
	ctx, cancel := withTimeout(ctx)
	defer cancel()
	start := time.Now()
	entries := []store.Entry{}
	count := 1 // a poll of the log usually finds no entry or one
	for len(entries) < limit && time.Since(start) < store.CallTimeout/2 {
		last, found, rest := n+int64(len(entries)), len(entries), limit-len(entries)
		if found > parallelLookUps && rest > rangeThreshold && time.Now().UnixNano() > d.noRangeUntil.Load() {
			perLookUp := time.Since(start) / time.Duration(found)
			rangeStart := time.Now()
			more, err := d.readRange(ctx, last, rest)
			if err != nil || time.Since(rangeStart) > perLookUp*time.Duration(max(rangeThreshold, len(more))) {
				d.noRangeUntil.Store(time.Now().Add(rangeRetryAfter).UnixNano())
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
		count = parallelLookUps
	}
	return entries, nil
}

// readRange returns up to limit entries above n with one query, whose answer comes in one batch.
func (d *database) readRange(ctx context.Context, n int64, limit int) ([]store.Entry, error) {
	aboveN := bson.D{{Key: "_id", Value: bson.D{{Key: "$gt", Value: n}}}}
	byNumber := options.Find().SetSort(bson.D{{Key: "_id", Value: 1}}).SetLimit(int64(limit)).SetBatchSize(int32(limit))
	docs, err := findAll[entryDoc](ctx, d.entries, aboveN, byNumber)
	if err != nil {
		return nil, err
	}
	var entries []store.Entry
	for _, doc := range docs {
		// A scan that runs during an insert may return a later entry without an earlier one. The entries after the gap
		// come with the next call.
		if doc.N != n+int64(len(entries))+1 {
			break
		}
		entries = append(entries, decode(doc))
	}
	return entries, nil
}

// lookUp returns the count entries above n, or those before the first that does not exist. All look-ups run at the same
// time: one after another they could exceed the timeout on a busy server.
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

// Last searches the highest number with look-ups by _id only: see highestOf.
func (d *database) Last(ctx context.Context) (int64, error) {
	ctx, cancel := withTimeout(ctx)
	defer cancel()
	return highestOf(func(numbers []int64) (int, error) {
		found := make([]bool, len(numbers))
		var group errgroup.Group
		for i, n := range numbers {
			group.Go(func() (err error) {
				found[i], err = exists(ctx, d.entries, n)
				return err
			})
		}
		err := group.Wait()
		if i := slices.Index(found, false); i >= 0 {
			return i, err
		}
		return len(found), err
	})
}

// EntryByClientID uses the unique index that ensureIndexes creates.
func (d *database) EntryByClientID(ctx context.Context, author, clientID string) (store.Entry, error) {
	if err := store.CheckText(author, clientID); err != nil {
		return store.Entry{}, err
	}
	ctx, cancel := withTimeout(ctx)
	defer cancel()
	var doc entryDoc
	err := d.entries.FindOne(ctx, bson.D{{Key: "author", Value: author}, {Key: "clientId", Value: clientID}}).Decode(&doc)
	if err != nil {
		return store.Entry{}, wrap(err)
	}
	return decode(doc), nil
}

// encode returns the document of an entry under the number n. BSON itself stores times in UTC and whole milliseconds.
func encode(e store.Entry, n int64) entryDoc {
	doc := entryDoc{N: n, Kind: e.Kind, Subject: e.Subject, Author: e.Author, ClientID: e.ClientID}
	if e.Message != nil {
		doc.Message = &messageDoc{Author: authorDoc(e.Message.Author), Text: e.Message.Text, Time: e.Message.Time}
	}
	return doc
}

// decode returns the entry of a document.
func decode(doc entryDoc) store.Entry {
	e := store.Entry{N: doc.N, Kind: doc.Kind, Subject: doc.Subject, Author: doc.Author, ClientID: doc.ClientID}
	if doc.Message != nil {
		e.Message = &store.Message{
			Author: store.Author(doc.Message.Author), Text: doc.Message.Text, Time: doc.Message.Time,
		}
	}
	return e
}
