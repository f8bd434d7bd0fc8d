// Package mongostore implements store.Store in MongoDB: standalone, replica set or Atlas. Nothing in it needs a replica
// set, and every frequent query has an index: of _id, or one that ensureIndexes creates.
package mongostore

import (
	"context"
	"fmt"
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
	maxConnections  = 16 // of one process
	// Both are shorter than the driver's defaults (30 s and 10 s), so that a call fails before store.CallTimeout when
	// no server answers, and a server that came back is used again within two seconds.
	selectionTimeout  = time.Second
	heartbeatInterval = 2 * time.Second
)

// database implements store.Store.
type database struct {
	client                                       *mongo.Client
	users, sessions, products, counters, entries *mongo.Collection
	// A channel of capacity 1 as a lock, since a mutex cannot honour a context: true once the indexes exist.
	indexesReady chan bool
}

// Open returns a store in the database that the URI names, or else in "balanza". It fails when the URI is malformed, or
// when the name of a mongodb+srv URI does not resolve. It does not fail when the server is down, so that a process can
// start before its database; the calls of the store then fail with ErrUnavailable.
func Open(_ context.Context, uri string) (store.Store, error) {
	parsed, err := connstring.ParseAndValidate(uri)
	if err != nil {
		return nil, fmt.Errorf("MongoDB's URI: %w", err)
	}
	majority := writeconcern.Majority()
	majority.Journal = new(true)
	client, err := mongo.Connect(context.Background(), options.Client().
		SetAppName("balanza").
		SetMaxPoolSize(maxConnections).
		SetConnectTimeout(store.CallTimeout).
		SetServerSelectionTimeout(selectionTimeout).
		SetHeartbeatInterval(heartbeatInterval).
		// The URI overrides the settings above, but none of those below: an acknowledged message must survive the loss
		// of a server, and a process must read what another one wrote.
		ApplyURI(uri).
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
		client:       client,
		users:        db.Collection("users"),
		sessions:     db.Collection("sessions"),
		products:     db.Collection("products"),
		counters:     db.Collection("counters"),
		entries:      db.Collection("entries"),
		indexesReady: make(chan bool, 1),
	}
	d.indexesReady <- false
	return d, nil
}

// ensureIndexes creates the indexes unless this process did so before. The first append and the first sweep call it, not
// Open, since the server may be down when a process starts. To create an index that exists has no effect.
func (d *database) ensureIndexes(ctx context.Context) error {
	var ready bool
	select {
	case ready = <-d.indexesReady:
	case <-ctx.Done():
		return wrap(ctx.Err())
	}
	defer func() { d.indexesReady <- ready }()
	if ready {
		return nil
	}
	// Appends rely on this one: it keeps a repeated request from being stored twice. It also serves EntryByClientID.
	byClientID := mongo.IndexModel{
		Keys:    bson.D{{Key: "author", Value: 1}, {Key: "clientId", Value: 1}},
		Options: options.Index().SetUnique(true),
	}
	if _, err := d.entries.Indexes().CreateOne(ctx, byClientID); err != nil {
		return wrap(err)
	}
	// These serve Sweep. A TTL index would make Sweep unnecessary, but not every compatible server has them.
	byExpiry := mongo.IndexModel{Keys: bson.D{{Key: "expires", Value: 1}}}
	for _, c := range []*mongo.Collection{d.sessions, d.counters} {
		if _, err := c.Indexes().CreateOne(ctx, byExpiry); err != nil {
			return wrap(err)
		}
	}
	ready = true
	return nil
}

// Ping asks the primary: a replica set without one cannot serve any other call.
func (d *database) Ping(ctx context.Context) error {
	ctx, cancel := withTimeout(ctx)
	defer cancel()
	return wrap(d.client.Ping(ctx, readpref.Primary()))
}

// Close closes all connections, and waits up to store.CallTimeout for the calls on them.
func (d *database) Close() error {
	ctx, cancel := withTimeout(context.Background())
	defer cancel()
	return wrap(d.client.Disconnect(ctx))
}

// withTimeout limits a call to store.CallTimeout, on the client's side only. The client-wide option Timeout would make the
// driver send the limit as maxTimeMS, and FerretDB on SQLite that breaks a query off can fail all later ones of that
// connection, or answer them from outdated tables. MongoDB ends the operations of a client that has disconnected.
func withTimeout(ctx context.Context) (context.Context, context.CancelFunc) {
	return context.WithTimeout(ctx, store.CallTimeout)
}

// byID is the filter for the document of that _id. The type of id makes it a string or a number, so a text that looks like
// a query operator is never one.
func byID[ID string | int64](id ID) bson.D {
	return bson.D{{Key: "_id", Value: id}}
}

// findAll returns the documents that match the filter.
func findAll[Doc any](ctx context.Context, c *mongo.Collection, filter bson.D, opts *options.FindOptions) ([]Doc, error) {
	cursor, err := c.Find(ctx, filter, opts)
	if err != nil {
		return nil, wrap(err)
	}
	docs := []Doc{}
	err = cursor.All(ctx, &docs)
	return docs, wrap(err)
}

// wrap maps an error of the driver to the errors of the contract.
func wrap(err error) error { return store.WrapError(err, mongo.ErrNoDocuments) }
