package mongostore

import (
	"context"
	"errors"
	"slices"
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

// SetPassword sets the fields in one update.
func (d *database) SetPassword(ctx context.Context, email string, hash []byte, generation string, devices []string) error {
	return d.updateUser(ctx, email, bson.D{
		{Key: "password", Value: hash}, {Key: "generation", Value: generation}, {Key: "devices", Value: devices},
	}, append(devices, generation)...)
}

// SetDevices sets one field.
func (d *database) SetDevices(ctx context.Context, email string, devices []string) error {
	return d.updateUser(ctx, email, bson.D{{Key: "devices", Value: devices}}, devices...)
}

// updateUser sets fields of a user. texts are those among their values.
func (d *database) updateUser(ctx context.Context, email string, fields bson.D, texts ...string) error {
	t, err := d.useFor(ctx, append(texts, email)...)
	if err != nil {
		return err
	}
	return updateOne(ctx, t.users, email, fields)
}

// DeleteUser deletes the user first: without it no session is found, whatever fails after that.
func (d *database) DeleteUser(ctx context.Context, email string) ([]string, error) {
	t, err := d.useFor(ctx, email)
	if err != nil {
		return nil, err
	}
	if _, err := t.users.DeleteOne(ctx, byID(email)); err != nil {
		return nil, wrap(err)
	}
	return d.DeleteSessionsOf(ctx, email, "")
}

// CreateSession inserts a session, or fails with ErrTaken when its _id exists.
func (d *database) CreateSession(ctx context.Context, s store.Session) error {
	if err := s.Check(); err != nil {
		return err
	}
	t, err := d.use(ctx)
	if err != nil {
		return err
	}
	return create(ctx, t.sessions, s)
}

// Session reads a session by _id and then its user. It compares the expiry here: a sweep may not have deleted it yet. One
// query with $lookup would save a round trip, but not every compatible server has it.
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
	current, err := t.withUser(ctx, []store.Session{s})
	if err == nil && len(current) == 0 {
		err = store.ErrNotFound
	}
	if err != nil {
		return store.Session{}, err
	}
	return s, nil
}

// SessionsOf finds the sessions by the index on email, of which one user has few.
func (d *database) SessionsOf(ctx context.Context, email string, now time.Time, limit int) ([]store.Session, error) {
	if limit <= 0 { // which MongoDB takes for no limit
		return []store.Session{}, nil
	}
	t, err := d.useFor(ctx, email)
	if err != nil {
		return nil, err
	}
	live := bson.D{{Key: "email", Value: email}, where("expires", "$gt", now)}
	opts := options.Find().SetSort(bson.D{{Key: "created", Value: -1}}).SetLimit(int64(limit))
	sessions, err := findAll[store.Session](ctx, t.sessions, live, opts)
	if err != nil {
		return nil, err
	}
	return t.withUser(ctx, sessions)
}

// LiveSessions checks all sessions in two queries: a process asks for those of all its websockets every few seconds.
func (d *database) LiveSessions(ctx context.Context, ids []string, now time.Time) ([]string, error) {
	t, err := d.useFor(ctx, ids...)
	if err != nil {
		return nil, err
	}
	// A nil slice would be encoded as null, which $in rejects.
	live := bson.D{where("_id", "$in", append([]string{}, ids...)), where("expires", "$gt", now)}
	fields := bson.D{{Key: "email", Value: 1}, {Key: "generation", Value: 1}} // and _id
	sessions, err := findAll[store.Session](ctx, t.sessions, live, options.Find().SetProjection(fields))
	if err != nil {
		return nil, err
	}
	current, err := t.withUser(ctx, sessions)
	if err != nil {
		return nil, err
	}
	return idsOf(current), nil
}

// withUser returns those of the sessions whose users exist and are of the session's generation, in one query.
func (t *tables) withUser(ctx context.Context, sessions []store.Session) ([]store.Session, error) {
	if len(sessions) == 0 {
		return sessions, nil
	}
	var emails []string
	for _, s := range sessions {
		emails = append(emails, s.Email)
	}
	slices.Sort(emails)
	// A user of an earlier version has no generation, which reads as "". So it is compared here, not in the query.
	opts := options.Find().SetProjection(bson.D{{Key: "generation", Value: 1}})
	users, err := findAll[store.User](ctx, t.users, bson.D{where("_id", "$in", slices.Compact(emails))}, opts)
	if err != nil {
		return nil, err
	}
	generations := make(map[string]string, len(users))
	for _, u := range users {
		generations[u.Email] = u.Generation
	}
	return slices.DeleteFunc(sessions, func(s store.Session) bool {
		generation, exists := generations[s.Email]
		return !exists || generation != s.Generation
	}), nil
}

// idsOf returns the ids of sessions.
func idsOf(sessions []store.Session) (ids []string) {
	for _, s := range sessions {
		ids = append(ids, s.ID)
	}
	return ids
}

// TouchSession updates without upsert, so it can never bring a deleted session back.
func (d *database) TouchSession(ctx context.Context, id string, expires time.Time) error {
	t, err := d.useFor(ctx, id)
	if err != nil {
		return err
	}
	err = updateOne(ctx, t.sessions, id, bson.D{{Key: "expires", Value: expires}})
	if errors.Is(err, store.ErrNotFound) {
		return nil
	}
	return err
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

// DeleteSessionsOf looks the sessions up by the index on email, since a deletion does not say which documents it took, and
// deletes these. A session that is started in between stays.
func (d *database) DeleteSessionsOf(ctx context.Context, email, except string) ([]string, error) {
	t, err := d.useFor(ctx, email, except)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, store.CallTimeout)
	defer cancel()
	all := bson.D{{Key: "email", Value: email}, where("_id", "$ne", except)}
	sessions, err := findAll[store.Session](ctx, t.sessions, all, options.Find().SetProjection(onlyID))
	if err != nil || len(sessions) == 0 {
		return nil, err
	}
	ids := idsOf(sessions)
	_, err = t.sessions.DeleteMany(ctx, bson.D{where("_id", "$in", ids)})
	return ids, wrap(err)
}

// Products reads a range of _id.
func (d *database) Products(ctx context.Context, after string, limit int) ([]store.Product, error) {
	if limit <= 0 { // which MongoDB takes for no limit
		return []store.Product{}, nil
	}
	t, err := d.useFor(ctx, after)
	if err != nil {
		return nil, err
	}
	opts := options.Find().SetSort(byNumber(1)).SetLimit(int64(limit))
	return findAll[store.Product](ctx, t.products, bson.D{where("_id", "$gt", after)}, opts)
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

// CreateProduct inserts a product and counts those of its owner after that: of concurrent calls that together exceed the
// limit, each one after the last that fits counts too many, and takes its product back. The count before it keeps an owner
// who has reached the limit from writing at all.
func (d *database) CreateProduct(ctx context.Context, p store.Product, most int) error {
	if err := p.Check(); err != nil {
		return err
	}
	t, err := d.use(ctx)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, store.CallTimeout)
	defer cancel()
	count := func() (int64, error) {
		n, err := t.products.CountDocuments(ctx, bson.D{{Key: "owner", Value: p.Owner}})
		return n, wrap(err)
	}
	n, err := count()
	if err != nil {
		return err
	}
	if n >= int64(most) {
		return t.fullOrTaken(ctx, p.ID)
	}
	if err := create(ctx, t.products, p); err != nil {
		return err
	}
	n, err = count()
	if err == nil && n <= int64(most) {
		return nil
	}
	if _, undo := t.products.DeleteOne(ctx, byID(p.ID)); undo != nil {
		return wrap(undo)
	}
	if err != nil {
		return err
	}
	return store.ErrFull
}

// fullOrTaken returns the error of a product that is not created since its owner has too many: ErrTaken when its id exists.
func (t *tables) fullOrTaken(ctx context.Context, id string) error {
	err := t.products.FindOne(ctx, byID(id)).Err()
	switch {
	case err == nil:
		return store.ErrTaken
	case errors.Is(err, mongo.ErrNoDocuments):
		return store.ErrFull
	default:
		return wrap(err)
	}
}

// UpdateProduct sets the fields that may change.
func (d *database) UpdateProduct(ctx context.Context, p store.Product) error {
	if err := p.Check(); err != nil {
		return err
	}
	t, err := d.use(ctx)
	if err != nil {
		return err
	}
	return updateOne(ctx, t.products, p.ID, bson.D{
		{Key: "nombre", Value: p.Nombre}, {Key: "precio", Value: p.Precio}, {Key: "foto", Value: p.Foto},
	})
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

// Count adds n with $inc, which the server applies atomically. The first count of a key inserts the counter together with
// its expiry, for Sweep. Adding 0 only reads.
func (d *database) Count(ctx context.Context, key string, n int, expires time.Time) (int, error) {
	t, err := d.useFor(ctx, key)
	if err != nil {
		return 0, err
	}
	if n == 0 {
		var counter struct{ Value int }
		err := wrap(t.counters.FindOne(ctx, byID(key)).Decode(&counter))
		if errors.Is(err, store.ErrNotFound) {
			err = nil
		}
		return counter.Value, err
	}
	value, err := increment(ctx, t.counters, key, "value", n, bson.D{{Key: "expires", Value: expires}})
	return int(value), err
}

// PutProcess replaces the record of a process, or inserts it.
func (d *database) PutProcess(ctx context.Context, p store.Process) error {
	if err := p.Check(); err != nil {
		return err
	}
	t, err := d.use(ctx)
	if err != nil {
		return err
	}
	return put(ctx, t.processes, p.ID, p)
}

// Processes finds the records by the index that begins with expires.
func (d *database) Processes(ctx context.Context, since time.Time) ([]store.Process, error) {
	t, err := d.use(ctx)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, store.CallTimeout) // of all batches together
	defer cancel()
	return findAll[store.Process](ctx, t.processes, bson.D{where("expires", "$gt", since)}, options.Find())
}

// CountProcesses needs only fields of one index, so that MongoDB reads no documents (a covered query).
func (d *database) CountProcesses(ctx context.Context, now time.Time) (live, panels int, err error) {
	t, err := d.use(ctx)
	if err != nil {
		return 0, 0, err
	}
	ctx, cancel := context.WithTimeout(ctx, store.CallTimeout)
	defer cancel()
	cursor, err := t.processes.Aggregate(ctx, mongo.Pipeline{
		{{Key: "$match", Value: bson.D{where("expires", "$gt", now)}}},
		{{Key: "$group", Value: bson.D{{Key: "_id", Value: "$panels"}, {Key: "n", Value: bson.D{{Key: "$sum", Value: 1}}}}}},
	})
	if err != nil {
		return 0, 0, wrap(err)
	}
	var groups []struct { // records with the same number of panels
		Panels int `bson:"_id"` // null in records of an earlier version
		N      int
	}
	if err := cursor.All(ctx, &groups); err != nil {
		return 0, 0, wrap(err)
	}
	for _, g := range groups {
		live += g.N
		panels += g.N * g.Panels
	}
	return live, panels, nil
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
	for c, before := range map[*mongo.Collection]time.Time{
		t.sessions: now, t.counters: now, t.holds: now, t.processes: now.Add(-store.EndedKept),
	} {
		res, err := c.DeleteMany(ctx, bson.D{where("expires", "$lte", before)})
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

// updateOne sets fields of the document of that _id. It counts matched documents, not modified ones, so an update that
// changes nothing succeeds. Without the document it fails with ErrNotFound.
func updateOne(ctx context.Context, c *mongo.Collection, id string, fields bson.D) error {
	res, err := c.UpdateOne(ctx, byID(id), bson.D{{Key: "$set", Value: fields}})
	if err != nil {
		return wrap(err)
	}
	return errIfNone(res.MatchedCount)
}

// errIfNone turns a write that matched no document into ErrNotFound.
func errIfNone(matched int64) error {
	if matched == 0 {
		return store.ErrNotFound
	}
	return nil
}
