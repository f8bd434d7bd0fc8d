// Package mongostore keeps Balanza's data in a MongoDB: standalone, replica set or Atlas. It asks for nothing that a
// MongoDB-compatible server lacks, and asks by _id whatever is asked often, since such a server may have no other index.
package mongostore

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"go.mongodb.org/mongo-driver/bson"
	"go.mongodb.org/mongo-driver/mongo"
	"go.mongodb.org/mongo-driver/mongo/options"
	"go.mongodb.org/mongo-driver/mongo/readconcern"
	"go.mongodb.org/mongo-driver/mongo/readpref"
	"go.mongodb.org/mongo-driver/mongo/writeconcern"
	"go.mongodb.org/mongo-driver/x/mongo/driver/connstring"

	"balanza/services/store"
)

const (
	defaultDatabase = "balanza"
	connections     = 16 // at most, of one process
	// A server that is gone is noticed, even when it is back before a call's patience ends.
	selectionPatience = time.Second
	heartbeat         = 2 * time.Second
)

// database implements store.Store.
type database struct {
	client                                       *mongo.Client
	users, sessions, products, counters, entries *mongo.Collection
	indexes                                      chan bool    // of capacity 1, a lock: whether the indexes are made
	noRangeUntil                                 atomic.Int64 // Unix time in nanoseconds, see rangesAgain
}

// Open prepares a client for the database that the URI names, or else for "balanza". It fails when the URI is malformed
// (of a mongodb+srv one also when its name does not resolve), not when the server is down.
func Open(_ context.Context, uri string) (store.Store, error) {
	parsed, err := connstring.ParseAndValidate(uri)
	if err != nil {
		return nil, fmt.Errorf("MongoDB's URI: %w", err)
	}
	majority := writeconcern.Majority()
	journal := true
	majority.Journal = &journal
	client, err := mongo.Connect(context.Background(), options.Client().
		SetAppName("balanza").
		SetMaxPoolSize(connections).
		SetConnectTimeout(store.Patience).
		SetServerSelectionTimeout(selectionPatience).
		SetHeartbeatInterval(heartbeat).
		ApplyURI(uri). // what the URI says goes before what is above, and after what is below
		SetReadPreference(readpref.Primary()).
		SetReadConcern(readconcern.Majority()).
		SetWriteConcern(majority))
	if err != nil {
		return nil, fmt.Errorf("MongoDB's URI: %w", err)
	}
	name := parsed.Database
	if name == "" {
		name = defaultDatabase
	}
	db := client.Database(name)
	d := &database{
		client:   client,
		users:    db.Collection("users"),
		sessions: db.Collection("sessions"),
		products: db.Collection("products"),
		counters: db.Collection("counters"),
		entries:  db.Collection("entries"),
		indexes:  make(chan bool, 1),
	}
	d.indexes <- false
	return d, nil
}

// needIndexes makes the indexes where this process has not made sure of them yet. It comes before the first append, which
// relies on one, and before the first sweep, rather than at the start, when the server may be down.
func (d *database) needIndexes(ctx context.Context) error {
	var made bool
	select {
	case made = <-d.indexes:
	case <-ctx.Done():
		return wrap(ctx.Err())
	}
	defer func() { d.indexes <- made }()
	if made {
		return nil
	}
	said := mongo.IndexModel{
		Keys:    bson.D{{Key: "author", Value: 1}, {Key: "clientId", Value: 1}},
		Options: options.Index().SetUnique(true),
	}
	if _, err := d.entries.Indexes().CreateOne(ctx, said); err != nil {
		return wrap(err)
	}
	end := mongo.IndexModel{Keys: bson.D{{Key: "expires", Value: 1}}}
	for _, c := range []*mongo.Collection{d.sessions, d.counters} {
		if _, err := c.Indexes().CreateOne(ctx, end); err != nil {
			return wrap(err)
		}
	}
	made = true
	return nil
}

func (d *database) Ping(ctx context.Context) error {
	ctx, cancel := patient(ctx)
	defer cancel()
	return wrap(d.client.Ping(ctx, readpref.Primary()))
}

func (d *database) Close() error {
	ctx, cancel := patient(context.Background())
	defer cancel()
	return wrap(d.client.Disconnect(ctx))
}

// patient limits a call's time on this side only. A client-wide Timeout would have the driver send the limit along, as maxTimeMS,
// and FerretDB on SQLite that breaks off a query can fail all later ones of that connection, or answer them from old tables.
// MongoDB ends what it does for a client that has hung up.
func patient(ctx context.Context) (context.Context, context.CancelFunc) {
	return context.WithTimeout(ctx, store.Patience)
}

// byID is the filter for one document. The value is a string or a number by its type, so it is never an operator.
func byID[ID string | int64](id ID) bson.D {
	return bson.D{{Key: "_id", Value: id}}
}

// findAll returns the documents that the filter lets through.
func findAll[Doc any](ctx context.Context, c *mongo.Collection, filter bson.D, how *options.FindOptions) ([]Doc, error) {
	cursor, err := c.Find(ctx, filter, how)
	if err != nil {
		return nil, wrap(err)
	}
	var docs []Doc
	err = cursor.All(ctx, &docs)
	return docs, wrap(err)
}

// wrap tells the contract's errors. Whatever else a server says (not reachable, not primary, not ready, not allowed) may
// be over at the next try.
func wrap(err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, mongo.ErrNoDocuments):
		return store.ErrNotFound
	default:
		return fmt.Errorf("%w: %w", store.ErrUnavailable, err)
	}
}
