package mongostore

import (
	"context"
	"time"

	"go.mongodb.org/mongo-driver/bson"
	"go.mongodb.org/mongo-driver/mongo"
	"go.mongodb.org/mongo-driver/mongo/options"

	"balanza/services/store"
)

// CreateUser inserts a user; the unique _id makes one of two concurrent sign-ups fail with ErrTaken.
func (d *database) CreateUser(ctx context.Context, u store.User) error {
	if err := u.Check(); err != nil {
		return err
	}
	t, err := d.use(ctx)
	if err != nil {
		return err
	}
	return create(ctx, t.users, u)
}

// User reads a user by _id, the email.
func (d *database) User(ctx context.Context, email string) (u store.User, err error) {
	t, err := d.useFor(ctx, email)
	if err != nil {
		return u, err
	}
	err = t.users.FindOne(ctx, byID(email)).Decode(&u)
	return u, wrap(err)
}

// CreateSession inserts a session, or fails with ErrTaken when its _id exists.
func (d *database) CreateSession(ctx context.Context, s store.Session) error {
	t, err := d.useFor(ctx, s.ID, s.Email)
	if err != nil {
		return err
	}
	return create(ctx, t.sessions, s)
}

// Session reads a session by _id and compares its expiry here: a sweep may not have deleted it yet.
func (d *database) Session(ctx context.Context, id string, now time.Time) (store.Session, error) {
	t, err := d.useFor(ctx, id)
	if err != nil {
		return store.Session{}, err
	}
	var s store.Session
	if err := t.sessions.FindOne(ctx, byID(id)).Decode(&s); err != nil {
		return store.Session{}, wrap(err)
	}
	if !s.Expires.After(now) {
		return store.Session{}, store.ErrNotFound
	}
	return s, nil
}

// LiveSessions checks all sessions in one query and transfers only ids: a process asks for those of all its websockets
// every few seconds.
func (d *database) LiveSessions(ctx context.Context, ids []string, now time.Time) ([]string, error) {
	t, err := d.useFor(ctx, ids...)
	if err != nil {
		return nil, err
	}
	// A nil slice would be encoded as null, which $in rejects.
	live := bson.D{where("_id", "$in", append([]string{}, ids...)), where("expires", "$gt", now)}
	sessions, err := findAll[store.Session](ctx, t.sessions, live, options.Find().SetProjection(onlyID))
	if err != nil {
		return nil, err
	}
	var liveIDs []string
	for _, s := range sessions {
		liveIDs = append(liveIDs, s.ID)
	}
	return liveIDs, nil
}

// TouchSession updates without upsert, so it can never bring a deleted session back.
func (d *database) TouchSession(ctx context.Context, id string, expires time.Time) error {
	t, err := d.useFor(ctx, id)
	if err != nil {
		return err
	}
	_, err = t.sessions.UpdateOne(ctx, byID(id), bson.D{{Key: "$set", Value: bson.D{{Key: "expires", Value: expires}}}})
	return wrap(err)
}

// DeleteSession ignores the number of deleted documents: a missing session is no error.
func (d *database) DeleteSession(ctx context.Context, id string) error {
	t, err := d.useFor(ctx, id)
	if err != nil {
		return err
	}
	_, err = t.sessions.DeleteOne(ctx, byID(id))
	return wrap(err)
}

// Products reads the whole collection in the order of _id.
func (d *database) Products(ctx context.Context) ([]store.Product, error) {
	t, err := d.use(ctx)
	if err != nil {
		return nil, err
	}
	return findAll[store.Product](ctx, t.products, bson.D{}, options.Find().SetSort(bson.D{{Key: "_id", Value: 1}}))
}

// Product reads a product by _id.
func (d *database) Product(ctx context.Context, id string) (p store.Product, err error) {
	t, err := d.useFor(ctx, id)
	if err != nil {
		return p, err
	}
	err = t.products.FindOne(ctx, byID(id)).Decode(&p)
	return p, wrap(err)
}

// PutProduct replaces a product, or inserts it when its _id does not exist.
func (d *database) PutProduct(ctx context.Context, p store.Product) error {
	if err := p.Check(); err != nil {
		return err
	}
	t, err := d.use(ctx)
	if err != nil {
		return err
	}
	return put(ctx, t.products, p.ID, p)
}

// UpdateProduct counts matched documents, not modified ones, so an update that changes nothing succeeds.
func (d *database) UpdateProduct(ctx context.Context, p store.Product) error {
	if err := p.Check(); err != nil {
		return err
	}
	t, err := d.use(ctx)
	if err != nil {
		return err
	}
	res, err := t.products.ReplaceOne(ctx, byID(p.ID), p)
	if err != nil {
		return wrap(err)
	}
	return errIfNone(res.MatchedCount)
}

// DeleteProduct fails with ErrNotFound when it deletes no document.
func (d *database) DeleteProduct(ctx context.Context, id string) error {
	t, err := d.useFor(ctx, id)
	if err != nil {
		return err
	}
	res, err := t.products.DeleteOne(ctx, byID(id))
	if err != nil {
		return wrap(err)
	}
	return errIfNone(res.DeletedCount)
}

// Count adds n with $inc, which the server applies atomically. The first
// count of a key inserts the counter together with its expiry, for Sweep.
func (d *database) Count(ctx context.Context, key string, n int, expires time.Time) (int, error) {
	t, err := d.useFor(ctx, key)
	if err != nil {
		return 0, err
	}
	value, err := increment(ctx, t.counters, key, "value", n, bson.D{{Key: "expires", Value: expires}})
	return int(value), err
}

// PutProcess replaces the record of a process, or inserts it.
func (d *database) PutProcess(ctx context.Context, p store.Process) error {
	t, err := d.useFor(ctx, p.ID, p.Server, p.Host, p.Version)
	if err != nil {
		return err
	}
	return put(ctx, t.processes, p.ID, p)
}

// CountProcesses counts in the index on expires.
func (d *database) CountProcesses(ctx context.Context, now time.Time) (int, error) {
	t, err := d.use(ctx)
	if err != nil {
		return 0, err
	}
	n, err := t.processes.CountDocuments(ctx, bson.D{where("expires", "$gt", now)})
	return int(n), wrap(err)
}

// Sweep deletes by the indexes on expires. A call that fails between the collections leaves the rest to the next sweep.
func (d *database) Sweep(ctx context.Context, now time.Time) (int, error) {
	t, err := d.use(ctx)
	if err != nil {
		return 0, err
	}
	ctx, cancel := context.WithTimeout(ctx, store.CallTimeout)
	defer cancel()
	swept := 0
	for _, c := range []*mongo.Collection{t.sessions, t.counters, t.processes} {
		res, err := c.DeleteMany(ctx, bson.D{where("expires", "$lte", now)})
		if err != nil {
			return swept, wrap(err)
		}
		swept += int(res.DeletedCount)
	}
	return swept, nil
}

// useFor is use for a call with these texts among its arguments. It fails with ErrInvalid when one does not pass CheckText.
func (d *database) useFor(ctx context.Context, texts ...string) (*tables, error) {
	if err := store.CheckText(texts...); err != nil {
		return nil, err
	}
	return d.use(ctx)
}

// create inserts a document. A duplicate key means that its _id exists: the call fails with ErrTaken.
func create(ctx context.Context, c *mongo.Collection, doc any) error {
	_, err := c.InsertOne(ctx, doc)
	if mongo.IsDuplicateKeyError(err) {
		return store.ErrTaken
	}
	return wrap(err)
}

// put replaces the document of that _id, or inserts it.
func put(ctx context.Context, c *mongo.Collection, id string, doc any) error {
	for {
		_, err := c.ReplaceOne(ctx, byID(id), doc, options.Replace().SetUpsert(true))
		// Two upserts of one new _id can both choose to insert, and one gets a duplicate key. The next try finds the
		// document that the other one created.
		if !mongo.IsDuplicateKeyError(err) {
			return wrap(err)
		}
	}
}

// errIfNone turns a write that matched no document into ErrNotFound.
func errIfNone(matched int64) error {
	if matched == 0 {
		return store.ErrNotFound
	}
	return nil
}
