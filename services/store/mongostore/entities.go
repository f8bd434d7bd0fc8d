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
	return d.create(ctx, d.users, u)
}

// User reads a user by _id, the email.
func (d *database) User(ctx context.Context, email string) (u store.User, err error) {
	err = d.find(ctx, d.users, email, &u)
	return u, err
}

// CreateSession inserts a session, or fails with ErrTaken when its _id exists.
func (d *database) CreateSession(ctx context.Context, s store.Session) error {
	if err := store.CheckText(s.ID, s.Email); err != nil {
		return err
	}
	return d.create(ctx, d.sessions, s)
}

// Session reads a session by _id and compares its expiry here: a sweep may not have deleted it yet.
func (d *database) Session(ctx context.Context, id string, now time.Time) (store.Session, error) {
	var s store.Session
	if err := d.find(ctx, d.sessions, id, &s); err != nil {
		return store.Session{}, err
	}
	if !s.Expires.After(now) {
		return store.Session{}, store.ErrNotFound
	}
	return s, nil
}

// LiveSessions checks all sessions in one query and transfers only ids: a process asks for those of all its websockets
// every few seconds.
func (d *database) LiveSessions(ctx context.Context, ids []string, now time.Time) ([]string, error) {
	if err := store.CheckText(ids...); err != nil {
		return nil, err
	}
	ctx, cancel := withTimeout(ctx)
	defer cancel()
	live := bson.D{
		// A nil slice would be encoded as null, which $in rejects.
		{Key: "_id", Value: bson.D{{Key: "$in", Value: append([]string{}, ids...)}}},
		{Key: "expires", Value: bson.D{{Key: "$gt", Value: now}}},
	}
	sessions, err := findAll[store.Session](ctx, d.sessions, live, options.Find().SetProjection(bson.D{{Key: "_id", Value: 1}}))
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
	if err := store.CheckText(id); err != nil {
		return err
	}
	ctx, cancel := withTimeout(ctx)
	defer cancel()
	_, err := d.sessions.UpdateOne(ctx, byID(id), bson.D{{Key: "$set", Value: bson.D{{Key: "expires", Value: expires}}}})
	return wrap(err)
}

// DeleteSession ignores the number of deleted documents: a missing session is no error.
func (d *database) DeleteSession(ctx context.Context, id string) error {
	_, err := d.delete(ctx, d.sessions, id)
	return err
}

// Products reads the whole collection in the order of _id.
func (d *database) Products(ctx context.Context) ([]store.Product, error) {
	ctx, cancel := withTimeout(ctx)
	defer cancel()
	return findAll[store.Product](ctx, d.products, bson.D{}, options.Find().SetSort(bson.D{{Key: "_id", Value: 1}}))
}

// Product reads a product by _id.
func (d *database) Product(ctx context.Context, id string) (p store.Product, err error) {
	err = d.find(ctx, d.products, id, &p)
	return p, err
}

// PutProduct replaces a product, or inserts it when its _id does not exist.
func (d *database) PutProduct(ctx context.Context, p store.Product) error {
	_, err := d.replace(ctx, p, true)
	return err
}

// UpdateProduct counts matched documents, not modified ones, so an update that changes nothing succeeds.
func (d *database) UpdateProduct(ctx context.Context, p store.Product) error {
	return errIfNone(d.replace(ctx, p, false))
}

// DeleteProduct fails with ErrNotFound when it deletes no document.
func (d *database) DeleteProduct(ctx context.Context, id string) error {
	return errIfNone(d.delete(ctx, d.products, id))
}

// Sweep deletes by the indexes on expires. A call that fails between the collections leaves the rest to the next sweep.
func (d *database) Sweep(ctx context.Context, now time.Time) (int, error) {
	ctx, cancel := withTimeout(ctx)
	defer cancel()
	if err := d.ensureIndexes(ctx); err != nil {
		return 0, err
	}
	swept := 0
	for _, c := range []*mongo.Collection{d.sessions, d.counters} {
		res, err := c.DeleteMany(ctx, bson.D{{Key: "expires", Value: bson.D{{Key: "$lte", Value: now}}}})
		if err != nil {
			return swept, wrap(err)
		}
		swept += int(res.DeletedCount)
	}
	return swept, nil
}

// create inserts a document. A duplicate key means that its _id exists: the call fails with ErrTaken.
func (d *database) create(ctx context.Context, c *mongo.Collection, doc any) error {
	ctx, cancel := withTimeout(ctx)
	defer cancel()
	_, err := c.InsertOne(ctx, doc)
	if mongo.IsDuplicateKeyError(err) {
		return store.ErrTaken
	}
	return wrap(err)
}

// find decodes the document of that _id into doc, a pointer. It fails with ErrNotFound when there is none.
func (d *database) find(ctx context.Context, c *mongo.Collection, id string, doc any) error {
	if err := store.CheckText(id); err != nil {
		return err
	}
	ctx, cancel := withTimeout(ctx)
	defer cancel()
	return wrap(c.FindOne(ctx, byID(id)).Decode(doc))
}

// delete deletes the document of that _id and returns how many it deleted, 1 or 0.
func (d *database) delete(ctx context.Context, c *mongo.Collection, id string) (int64, error) {
	if err := store.CheckText(id); err != nil {
		return 0, err
	}
	ctx, cancel := withTimeout(ctx)
	defer cancel()
	res, err := c.DeleteOne(ctx, byID(id))
	if err != nil {
		return 0, wrap(err)
	}
	return res.DeletedCount, nil
}

// replace writes a product and returns how many of that _id existed, 1 or 0. With upsert it creates a missing one.
func (d *database) replace(ctx context.Context, p store.Product, upsert bool) (int64, error) {
	if err := p.Check(); err != nil {
		return 0, err
	}
	ctx, cancel := withTimeout(ctx)
	defer cancel()
	for {
		res, err := d.products.ReplaceOne(ctx, byID(p.ID), p, options.Replace().SetUpsert(upsert))
		switch {
		case err == nil:
			return res.MatchedCount, nil
		// Two upserts of one new _id can both choose to insert, and one gets a duplicate key. The next try finds the
		// document that the other one created.
		case !mongo.IsDuplicateKeyError(err):
			return 0, wrap(err)
		}
	}
}

// errIfNone turns a write that matched no document into ErrNotFound.
func errIfNone(matched int64, err error) error {
	if err == nil && matched == 0 {
		return store.ErrNotFound
	}
	return err
}
