package mongostore

import (
	"context"
	"errors"
	"time"

	"go.mongodb.org/mongo-driver/bson"
	"go.mongodb.org/mongo-driver/mongo"
	"go.mongodb.org/mongo-driver/mongo/options"

	"balanza/services/store"
)

// lookUps is how many entries After asks for one by one, by _id, before it asks for a range: in a conversation
// there is seldom more than that, and on some servers a range costs a scan of all entries.
const lookUps = 16

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
	if there, err := d.has(ctx, last); err != nil || !there {
		return 0, err
	}
	_, err := d.entries.InsertMany(ctx, docs)
	var refused mongo.BulkWriteException
	if errors.As(err, &refused) && refused.WriteConcernError == nil && mongo.IsDuplicateKeyError(err) {
		return refused.WriteErrors[0].Index, nil
	}
	if err != nil {
		return 0, wrap(err)
	}
	return len(docs), nil
}

func (d *database) After(ctx context.Context, n int64, limit int) ([]store.Entry, error) {
	ctx, cancel := patient(ctx)
	defer cancel()
	entries := []store.Entry{}
	for range min(limit, lookUps) {
		var doc entryDoc
		err := d.entries.FindOne(ctx, byID(n+1)).Decode(&doc)
		if errors.Is(err, mongo.ErrNoDocuments) {
			return entries, nil
		}
		if err != nil {
			return nil, wrap(err)
		}
		entries = append(entries, decode(doc))
		n++
	}
	if limit <= lookUps {
		return entries, nil
	}
	above := bson.D{{Key: "_id", Value: bson.D{{Key: "$gt", Value: n}}}}
	inOrder := options.Find().SetSort(bson.D{{Key: "_id", Value: 1}}).SetLimit(int64(limit - lookUps))
	cursor, err := d.entries.Find(ctx, above, inOrder)
	if err != nil {
		return nil, wrap(err)
	}
	var docs []entryDoc
	if err := cursor.All(ctx, &docs); err != nil {
		return nil, wrap(err)
	}
	for _, doc := range docs {
		// A number may be missing in what was read while it was written: then what is above it comes later.
		if doc.N != n+1 {
			break
		}
		entries = append(entries, decode(doc))
		n++
	}
	return entries, nil
}

// Last doubles its guess until there is no such entry, then halves the rest: a few look-ups by _id, on any server, for
// any length of the log. That numbers have no gap makes it right.
func (d *database) Last(ctx context.Context) (int64, error) {
	ctx, cancel := patient(ctx)
	defer cancel()
	there, not := int64(0), int64(1)
	for {
		ok, err := d.has(ctx, not)
		if err != nil {
			return 0, err
		}
		if !ok {
			break
		}
		there, not = not, 2*not
	}
	for there+1 < not {
		middle := there + (not-there)/2
		ok, err := d.has(ctx, middle)
		switch {
		case err != nil:
			return 0, err
		case ok:
			there = middle
		default:
			not = middle
		}
	}
	return there, nil
}

// has tells whether there is an entry of that number; 0 is before all and always there.
func (d *database) has(ctx context.Context, n int64) (bool, error) {
	if n == 0 {
		return true, nil
	}
	onlyID := options.FindOne().SetProjection(bson.D{{Key: "_id", Value: 1}})
	err := d.entries.FindOne(ctx, byID(n), onlyID).Err()
	if errors.Is(err, mongo.ErrNoDocuments) {
		return false, nil
	}
	return err == nil, wrap(err)
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
