// Package mongostore implements store.Store in MongoDB: standalone, replica set or Atlas. Nothing in it needs a replica
// set, and every frequent query has an index: of _id, or one that setUp creates.
package mongostore

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
	"time"

	"go.mongodb.org/mongo-driver/bson"
	"go.mongodb.org/mongo-driver/mongo"
	"go.mongodb.org/mongo-driver/mongo/options"
	"go.mongodb.org/mongo-driver/mongo/readconcern"
	"go.mongodb.org/mongo-driver/mongo/readpref"
	"go.mongodb.org/mongo-driver/mongo/writeconcern"

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
	connecting
	name string
	// tables is nil until setUp has succeeded: the server may be down when a process starts.
	tables atomic.Pointer[tables]
	// highest is the highest number of the log that this process knows to have an entry: see reserve.
	highest atomic.Int64
}

// tables are the collections.
type tables struct{ users, sessions, products, counters, entries, sequences, processes, holds *mongo.Collection }

// Open returns a store in the database that the URI names, or else in "balanza". It fails when the URI does not pass Check,
// or names files that can't be used. It does not fail when the server is down or a name does not resolve, so that a process
// can start before its database; the calls of the store then fail with ErrUnavailable.
func Open(_ context.Context, uri string) (store.Store, error) {
	d, err := open(uri)
	if err != nil {
		return nil, err
	}
	return d, nil
}

// open is Open, with further options of the driver for tests.
func open(uri string, more ...*options.ClientOptions) (*database, error) {
	parsed, err := parse(uri)
	if err != nil {
		return nil, fmt.Errorf("MongoDB's URI: %w", err)
	}
	d := &database{name: parsed.Database}
	if d.name == "" {
		d.name = defaultDatabase
	}
	connect := func() (*mongo.Client, error) { return connect(uri, more) }
	if strings.HasPrefix(uri, srvScheme) {
		d.startLookup(parsed.Hosts[0], connect)
		return d, nil
	}
	if d.client, err = connect(); err != nil {
		return nil, fmt.Errorf("MongoDB's URI: %w", err)
	}
	return d, nil
}

// connect returns a client, which connects when it is used. It asks the DNS when the URI is of mongodb+srv.
func connect(uri string, more []*options.ClientOptions) (*mongo.Client, error) {
	majority := writeconcern.Majority()
	majority.Journal = new(true)
	ours := options.Client().
		SetAppName("balanza").
		SetMaxPoolSize(maxConnections).
		SetServerSelectionTimeout(selectionTimeout).
		SetHeartbeatInterval(heartbeatInterval).
		// The URI overrides the settings above, but none of those below: a call must end in time, an acknowledged
		// message must survive the loss of a server, and a process must read what another one wrote.
		ApplyURI(uri).
		SetTimeout(store.CallTimeout).
		SetReadPreference(readpref.Primary()).
		SetWriteConcern(majority)
	if err := ours.Validate(); err != nil { // Connect quotes it too
		return nil, err
	}
	return mongo.Connect(context.Background(), append(more, ours)...)
}

// use returns the collections. The first call that reaches the server sets the database up.
func (d *database) use(ctx context.Context) (*tables, error) {
	if t := d.tables.Load(); t != nil {
		return t, nil
	}
	t, err := d.setUp(ctx)
	if err != nil {
		return nil, wrap(err)
	}
	d.tables.Store(t)
	return t, nil
}

// setUp creates the indexes; creating one that exists has no effect. It chooses the read concern by the kind of the server:
// a replica set, also behind mongos, answers from what a majority has, which no failover takes back, and a standalone
// server rejects that concern.
func (d *database) setUp(ctx context.Context) (*tables, error) {
	ctx, cancel := context.WithTimeout(ctx, store.CallTimeout)
	defer cancel()
	client, err := d.connected(ctx)
	if err != nil {
		return nil, err
	}
	server, err := hello(ctx, client)
	if err != nil {
		return nil, err
	}
	concern := readconcern.Local()
	if server.SetName != "" || server.Msg == "isdbgrid" {
		concern = readconcern.Majority()
	}
	db := client.Database(d.name, options.Database().SetReadConcern(concern))
	t := &tables{
		users: db.Collection("users"), sessions: db.Collection("sessions"), products: db.Collection("products"),
		counters: db.Collection("counters"), entries: db.Collection("entries"),
		sequences: db.Collection("sequences"), processes: db.Collection("processes"), holds: db.Collection("holds"),
	}
	// It keeps a repeated request from being stored twice, finds what is stored, and finds events by age.
	byClientID := mongo.IndexModel{
		Keys:    bson.D{{Key: "author", Value: 1}, {Key: "clientId", Value: 1}},
		Options: options.Index().SetUnique(true),
	}
	if _, err := t.entries.Indexes().CreateOne(ctx, byClientID); err != nil {
		return nil, err
	}
	// These serve Sweep. A TTL index would delete by the server's clock too, but only once a minute and
	// not on every compatible server.
	byExpiry := mongo.IndexModel{Keys: bson.D{{Key: "expires", Value: 1}}}
	for _, c := range []*mongo.Collection{t.sessions, t.counters, t.holds} {
		if _, err := c.Indexes().CreateOne(ctx, byExpiry); err != nil {
			return nil, err
		}
	}
	// It serves Sweep, Processes and CountProcesses, and has all that the latter needs.
	byExpiryAndPanels := mongo.IndexModel{Keys: bson.D{{Key: "expires", Value: 1}, {Key: "panels", Value: 1}}}
	if _, err := t.processes.Indexes().CreateOne(ctx, byExpiryAndPanels); err != nil {
		return nil, err
	}
	// These serve the list of a user's sessions, and the count of an owner's products.
	if _, err := t.sessions.Indexes().CreateOne(ctx, mongo.IndexModel{Keys: bson.D{{Key: "email", Value: 1}}}); err != nil {
		return nil, err
	}
	if _, err := t.products.Indexes().CreateOne(ctx, mongo.IndexModel{Keys: bson.D{{Key: "owner", Value: 1}}}); err != nil {
		return nil, err
	}
	byKey := mongo.IndexModel{Keys: bson.D{{Key: "key", Value: 1}}} // serves Hold
	if _, err := t.holds.Indexes().CreateOne(ctx, byKey); err != nil {
		return nil, err
	}
	return t, nil
}

// helloReply is what a server says about itself, by the command hello.
type helloReply struct {
	SetName   string    `bson:"setName"` // of a member of a replica set
	Msg       string    `bson:"msg"`     // of mongos: isdbgrid
	LocalTime time.Time `bson:"localTime"`
}

func hello(ctx context.Context, client *mongo.Client) (reply helloReply, err error) {
	err = client.Database("admin").RunCommand(ctx, bson.D{{Key: "hello", Value: 1}}).Decode(&reply)
	return reply, err
}

// Now asks the primary for its time.
func (d *database) Now(ctx context.Context) (time.Time, error) {
	client, err := d.connected(ctx)
	if err != nil {
		return time.Time{}, err
	}
	reply, err := hello(ctx, client)
	return reply.LocalTime, wrap(err)
}

// Ping asks the primary: a replica set without one cannot serve any other call.
func (d *database) Ping(ctx context.Context) error {
	client, err := d.connected(ctx)
	if err != nil {
		return err
	}
	return wrap(client.Ping(ctx, readpref.Primary()))
}

// Close closes all connections, and waits up to store.CallTimeout for the calls on them.
func (d *database) Close() error {
	client := d.end()
	if client == nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.Background(), store.CallTimeout)
	defer cancel()
	return wrap(client.Disconnect(ctx))
}

// byID is the filter for the document of that _id. The type of id makes it a string, so a text that looks like a query
// operator is never one.
func byID(id string) bson.D { return bson.D{{Key: "_id", Value: id}} }

// where is the condition that a field compares with a value by an operator, such as $lte.
func where(field, operator string, value any) bson.E {
	return bson.E{Key: field, Value: bson.D{{Key: operator, Value: value}}}
}

// byNumber sorts by _id; direction is 1 or -1.
func byNumber(direction int) bson.D { return bson.D{{Key: "_id", Value: direction}} }

// onlyID makes a query return only the _id of each document.
var onlyID = bson.D{{Key: "_id", Value: 1}}

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

// increment adds n to a field of the document of that _id and returns its new value. It creates a missing document with the
// fields of initial.
func increment(ctx context.Context, c *mongo.Collection, id, field string, n int, initial bson.D) (int64, error) {
	change := bson.D{{Key: "$inc", Value: bson.D{{Key: field, Value: n}}}}
	if len(initial) > 0 { // MongoDB rejects an empty operator
		change = append(change, bson.E{Key: "$setOnInsert", Value: initial})
	}
	opts := options.FindOneAndUpdate().SetUpsert(true).SetReturnDocument(options.After)
	for {
		doc, err := c.FindOneAndUpdate(ctx, byID(id), change, opts).Raw()
		// Two upserts of one new _id can both choose to insert; the one that fails finds the document at its next try.
		if mongo.IsDuplicateKeyError(err) {
			continue
		}
		if err != nil {
			return 0, wrap(err)
		}
		value, ok := doc.Lookup(field).AsInt64OK()
		if !ok {
			return 0, fmt.Errorf("%w: %s of %s is not a number", store.ErrUnavailable, field, id)
		}
		return value, nil
	}
}

// onlyDuplicates reports whether an insert failed for nothing but duplicate keys. A write concern error beside them is
// another failure: what was inserted may be lost in a failover.
func onlyDuplicates(err error) (bulk mongo.BulkWriteException, ok bool) {
	bulk, ok = errors.AsType[mongo.BulkWriteException](err)
	if !ok || bulk.WriteConcernError != nil {
		return bulk, false
	}
	for _, e := range bulk.WriteErrors {
		if !mongo.IsDuplicateKeyError(e) {
			return bulk, false
		}
	}
	return bulk, true
}

// wrap maps an error of the driver to the errors of the contract.
func wrap(err error) error {
	if err != nil && err != mongo.ErrNoDocuments {
		err = refused(err)
	}
	return store.WrapError(err, mongo.ErrNoDocuments)
}
