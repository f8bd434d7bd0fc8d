package sqlitestore

import (
	"context"
	"encoding/json"
	"errors"
	"time"

	"balanza/services/store"
)

func (d *database) CreateUser(ctx context.Context, u store.User) error {
	if err := u.Check(); err != nil {
		return err
	}
	author, err := json.Marshal(u.Author)
	if err != nil {
		return err
	}
	n, err := d.write(ctx, `INSERT INTO users VALUES (?, ?, ?, ?) ON CONFLICT DO NOTHING`,
		u.Email, append([]byte{}, u.PasswordHash...), string(author), u.Created.UnixMilli())
	if err == nil && n == 0 {
		return store.ErrTaken
	}
	return err
}

func (d *database) User(ctx context.Context, email string) (store.User, error) {
	if err := store.CheckText(email); err != nil {
		return store.User{}, err
	}
	u := store.User{Email: email}
	var author string
	var created int64
	err := d.row(ctx, `SELECT password, author, created FROM users WHERE email = ?`, []any{email},
		&u.PasswordHash, &author, &created)
	if err == nil {
		err = json.Unmarshal([]byte(author), &u.Author)
	}
	if err != nil {
		return store.User{}, err
	}
	u.Created = time.UnixMilli(created).UTC()
	return u, nil
}

func (d *database) CreateSession(ctx context.Context, s store.Session) error {
	if err := store.CheckText(s.ID, s.Email); err != nil {
		return err
	}
	n, err := d.write(ctx, `INSERT INTO sessions VALUES (?, ?, ?) ON CONFLICT DO NOTHING`,
		s.ID, s.Email, s.Expires.UnixMilli())
	if err == nil && n == 0 {
		return store.ErrTaken
	}
	return err
}

func (d *database) Session(ctx context.Context, id string, now time.Time) (store.Session, error) {
	if err := store.CheckText(id); err != nil {
		return store.Session{}, err
	}
	s := store.Session{ID: id}
	var expires int64
	if err := d.row(ctx, `SELECT email, expires FROM sessions WHERE id = ?`, []any{id}, &s.Email, &expires); err != nil {
		return store.Session{}, err
	}
	s.Expires = time.UnixMilli(expires).UTC()
	if !s.Expires.After(now) {
		return store.Session{}, store.ErrNotFound
	}
	return s, nil
}

func (d *database) LiveSessions(ctx context.Context, ids []string, now time.Time) ([]string, error) {
	if err := store.CheckText(ids...); err != nil {
		return nil, err
	}
	list, err := json.Marshal(ids)
	if err != nil {
		return nil, err
	}
	var live []string
	err = rows(ctx, d.live, []any{string(list), now.UnixMilli()}, func(scan scanner) error {
		var id string
		err := scan(&id)
		live = append(live, id)
		return err
	})
	return live, err
}

func (d *database) TouchSession(ctx context.Context, id string, expires time.Time) error {
	if err := store.CheckText(id); err != nil {
		return err
	}
	_, err := d.write(ctx, `UPDATE sessions SET expires = ? WHERE id = ?`, expires.UnixMilli(), id)
	return err
}

func (d *database) DeleteSession(ctx context.Context, id string) error {
	if err := store.CheckText(id); err != nil {
		return err
	}
	_, err := d.write(ctx, `DELETE FROM sessions WHERE id = ?`, id)
	return err
}

func (d *database) Products(ctx context.Context) ([]store.Product, error) {
	products := []store.Product{}
	err := rows(ctx, d.products, nil, func(scan scanner) error {
		var p store.Product
		err := scan(&p.ID, &p.Nombre, &p.Precio, &p.Foto)
		products = append(products, p)
		return err
	})
	if err != nil {
		return nil, err
	}
	return products, nil
}

func (d *database) Product(ctx context.Context, id string) (store.Product, error) {
	if err := store.CheckText(id); err != nil {
		return store.Product{}, err
	}
	p := store.Product{ID: id}
	err := d.row(ctx, `SELECT nombre, precio, foto FROM products WHERE id = ?`, []any{id}, &p.Nombre, &p.Precio, &p.Foto)
	if err != nil {
		return store.Product{}, err
	}
	return p, nil
}

func (d *database) PutProduct(ctx context.Context, p store.Product) error {
	if err := p.Check(); err != nil {
		return err
	}
	_, err := d.write(ctx, `REPLACE INTO products VALUES (?, ?, ?, ?)`, p.ID, p.Nombre, p.Precio, p.Foto)
	return err
}

func (d *database) UpdateProduct(ctx context.Context, p store.Product) error {
	if err := p.Check(); err != nil {
		return err
	}
	return d.writeOne(ctx, `UPDATE products SET nombre = ?, precio = ?, foto = ? WHERE id = ?`,
		p.Nombre, p.Precio, p.Foto, p.ID)
}

func (d *database) DeleteProduct(ctx context.Context, id string) error {
	if err := store.CheckText(id); err != nil {
		return err
	}
	return d.writeOne(ctx, `DELETE FROM products WHERE id = ?`, id)
}

func (d *database) Count(ctx context.Context, key string, n int, expires time.Time) (int, error) {
	if err := store.CheckText(key); err != nil {
		return 0, err
	}
	value := 0
	if n == 0 {
		err := d.row(ctx, `SELECT n FROM counters WHERE key = ?`, []any{key}, &value)
		if errors.Is(err, store.ErrNotFound) {
			err = nil
		}
		return value, err
	}
	ctx, cancel := context.WithTimeout(ctx, store.Patience)
	defer cancel()
	err := untilFree(ctx, func() error {
		return d.writer.QueryRowContext(ctx, `INSERT INTO counters VALUES (?, ?, ?)
			ON CONFLICT DO UPDATE SET n = n + excluded.n RETURNING n`, key, n, expires.UnixMilli()).Scan(&value)
	})
	return value, wrap(err)
}

func (d *database) Sweep(ctx context.Context, now time.Time) (int, error) {
	sessions, err := d.write(ctx, `DELETE FROM sessions WHERE expires <= ?`, now.UnixMilli())
	if err != nil {
		return 0, err
	}
	counters, err := d.write(ctx, `DELETE FROM counters WHERE expires <= ?`, now.UnixMilli())
	return sessions + counters, err
}
