package mongostore

import (
	"context"
	"time"

	"go.mongodb.org/mongo-driver/bson"
	"go.mongodb.org/mongo-driver/mongo"
	"go.mongodb.org/mongo-driver/mongo/options"

	"balanza/services/store"
)

type userDoc struct {
	Email    string    `bson:"_id"`
	Password []byte    `bson:"password"`
	Author   authorDoc `bson:"author"`
	Created  time.Time `bson:"created"`
}

type authorDoc struct {
	ID       string `bson:"id"`
	Nombre   string `bson:"nombre"`
	Apellido string `bson:"apellido"`
	Edad     int    `bson:"edad"`
	Alias    string `bson:"alias"`
	Avatar   string `bson:"avatar"`
}

type sessionDoc struct {
	ID      string    `bson:"_id"`
	Email   string    `bson:"email"`
	Expires time.Time `bson:"expires"`
}

type productDoc struct {
	ID     string  `bson:"_id"`
	Nombre string  `bson:"nombre"`
	Precio float64 `bson:"precio"`
	Foto   string  `bson:"foto"`
}

func (d *database) CreateUser(ctx context.Context, u store.User) error {
	if err := u.Check(); err != nil {
		return err
	}
	return d.create(ctx, d.users, userDoc{
		Email: u.Email, Password: u.PasswordHash, Author: authorDoc(u.Author), Created: u.Created,
	})
}

func (d *database) User(ctx context.Context, email string) (store.User, error) {
	var doc userDoc
	if err := d.find(ctx, d.users, email, &doc); err != nil {
		return store.User{}, err
	}
	return store.User{
		Email: doc.Email, PasswordHash: doc.Password, Author: store.Author(doc.Author), Created: doc.Created,
	}, nil
}

func (d *database) CreateSession(ctx context.Context, s store.Session) error {
	if err := store.CheckText(s.ID, s.Email); err != nil {
		return err
	}
	return d.create(ctx, d.sessions, sessionDoc(s))
}

func (d *database) Session(ctx context.Context, id string, now time.Time) (store.Session, error) {
	var doc sessionDoc
	if err := d.find(ctx, d.sessions, id, &doc); err != nil {
		return store.Session{}, err
	}
	if !doc.Expires.After(now) {
		return store.Session{}, store.ErrNotFound
	}
	return store.Session(doc), nil
}

func (d *database) LiveSessions(ctx context.Context, ids []string, now time.Time) ([]string, error) {
	if err := store.CheckText(ids...); err != nil {
		return nil, err
	}
	ctx, cancel := patient(ctx)
	defer cancel()
	among := bson.D{
		{Key: "_id", Value: bson.D{{Key: "$in", Value: append([]string{}, ids...)}}}, // of nil it would make null
		{Key: "expires", Value: bson.D{{Key: "$gt", Value: now}}},
	}
	docs, err := findAll[sessionDoc](ctx, d.sessions, among, options.Find().SetProjection(bson.D{{Key: "_id", Value: 1}}))
	if err != nil {
		return nil, err
	}
	var live []string
	for _, doc := range docs {
		live = append(live, doc.ID)
	}
	return live, nil
}

func (d *database) TouchSession(ctx context.Context, id string, expires time.Time) error {
	if err := store.CheckText(id); err != nil {
		return err
	}
	ctx, cancel := patient(ctx)
	defer cancel()
	_, err := d.sessions.UpdateOne(ctx, byID(id), bson.D{{Key: "$set", Value: bson.D{{Key: "expires", Value: expires}}}})
	return wrap(err)
}

func (d *database) DeleteSession(ctx context.Context, id string) error {
	_, err := d.delete(ctx, d.sessions, id)
	return err
}

func (d *database) Products(ctx context.Context) ([]store.Product, error) {
	ctx, cancel := patient(ctx)
	defer cancel()
	docs, err := findAll[productDoc](ctx, d.products, bson.D{}, options.Find().SetSort(bson.D{{Key: "_id", Value: 1}}))
	if err != nil {
		return nil, err
	}
	products := make([]store.Product, len(docs))
	for i, doc := range docs {
		products[i] = store.Product(doc)
	}
	return products, nil
}

func (d *database) Product(ctx context.Context, id string) (store.Product, error) {
	var doc productDoc
	err := d.find(ctx, d.products, id, &doc)
	return store.Product(doc), err
}

func (d *database) PutProduct(ctx context.Context, p store.Product) error {
	_, err := d.replace(ctx, p, true)
	return err
}

func (d *database) UpdateProduct(ctx context.Context, p store.Product) error {
	n, err := d.replace(ctx, p, false)
	if err == nil && n == 0 {
		return store.ErrNotFound
	}
	return err
}

func (d *database) DeleteProduct(ctx context.Context, id string) error {
	n, err := d.delete(ctx, d.products, id)
	if err == nil && n == 0 {
		return store.ErrNotFound
	}
	return err
}

func (d *database) Sweep(ctx context.Context, now time.Time) (int, error) {
	ctx, cancel := patient(ctx)
	defer cancel()
	if err := d.needIndexes(ctx); err != nil {
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

// create inserts a document, or fails with ErrTaken.
func (d *database) create(ctx context.Context, c *mongo.Collection, doc any) error {
	ctx, cancel := patient(ctx)
	defer cancel()
	_, err := c.InsertOne(ctx, doc)
	if mongo.IsDuplicateKeyError(err) {
		return store.ErrTaken
	}
	return wrap(err)
}

// find decodes the document of that id, or fails with ErrNotFound.
func (d *database) find(ctx context.Context, c *mongo.Collection, id string, doc any) error {
	if err := store.CheckText(id); err != nil {
		return err
	}
	ctx, cancel := patient(ctx)
	defer cancel()
	return wrap(c.FindOne(ctx, byID(id)).Decode(doc))
}

// delete returns how many documents it deleted, one or none.
func (d *database) delete(ctx context.Context, c *mongo.Collection, id string) (int64, error) {
	if err := store.CheckText(id); err != nil {
		return 0, err
	}
	ctx, cancel := patient(ctx)
	defer cancel()
	res, err := c.DeleteOne(ctx, byID(id))
	if err != nil {
		return 0, wrap(err)
	}
	return res.DeletedCount, nil
}

// replace returns how many products of that id there were.
func (d *database) replace(ctx context.Context, p store.Product, upsert bool) (int64, error) {
	if err := p.Check(); err != nil {
		return 0, err
	}
	ctx, cancel := patient(ctx)
	defer cancel()
	for {
		res, err := d.products.ReplaceOne(ctx, byID(p.ID), productDoc(p), options.Replace().SetUpsert(upsert))
		switch {
		case err == nil:
			return res.MatchedCount, nil
		case !mongo.IsDuplicateKeyError(err): // of two that make the same product one may fail; then it is there
			return 0, wrap(err)
		}
	}
}
