package sqlitestore

import (
	"context"
	"encoding/json"
	"errors"
	"time"

	"balanza/services/store"
)

// CreateUser inserts a user; the primary key on the email makes one of two concurrent sign-ups fail with ErrTaken.
func (d *database) CreateUser(ctx context.Context, u store.User) error {
	if err := u.Check(); err != nil {
		return err
	}
	// The profile is one JSON text: no query looks into it.
	author, err := json.Marshal(u.Author)
	if err != nil {
		return err
	}
	// A nil slice would be stored as NULL, which the column does not allow.
	password := append([]byte{}, u.PasswordHash...)
	return d.writeOne(ctx, store.ErrTaken, `INSERT INTO users VALUES (?, ?, ?, ?) ON CONFLICT DO NOTHING`,
		u.Email, password, string(author), u.Created.UnixMilli())
}

// User reads a user by primary key.
func (d *database) User(ctx context.Context, email string) (store.User, error) {
	u := store.User{Email: email}
	var author string
	var created int64
	err := d.readRow(ctx, `SELECT password, author, created FROM users WHERE email = ?`, []any{email},
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

// CreateSession inserts a session, or fails with ErrTaken when the primary key exists.
func (d *database) CreateSession(ctx context.Context, s store.Session) error {
	return d.writeOne(ctx, store.ErrTaken, `INSERT INTO sessions VALUES (?, ?, ?) ON CONFLICT DO NOTHING`,
		s.ID, s.Email, s.Expires.UnixMilli())
}

// Session compares the expiry in the query, as LiveSessions and Sweep do, so all three agree to the millisecond.
func (d *database) Session(ctx context.Context, id string, now time.Time) (store.Session, error) {
	s := store.Session{ID: id}
	var expires int64
	err := d.readRow(ctx, `SELECT email, expires FROM sessions WHERE id = ? AND expires > ?`, []any{id, now.UnixMilli()},
		&s.Email, &expires)
	if err != nil {
		return store.Session{}, err
	}
	s.Expires = time.UnixMilli(expires).UTC()
	return s, nil
}

// LiveSessions checks all sessions in one query: a process asks for those of all its websockets every few seconds.
func (d *database) LiveSessions(ctx context.Context, ids []string, now time.Time) ([]string, error) {
	// The check comes before the encoding: json.Marshal replaces invalid UTF-8.
	if err := store.CheckText(ids...); err != nil {
		return nil, err
	}
	list, err := json.Marshal(ids)
	if err != nil {
		return nil, err
	}
	var live []string
	err = readRows(ctx, d.liveSessions, []any{string(list), now.UnixMilli()}, func(scan scanner) error {
		var id string
		err := scan(&id)
		live = append(live, id)
		return err
	})
	return live, err
}

// TouchSession updates only an existing row, so it can never bring a deleted session back.
func (d *database) TouchSession(ctx context.Context, id string, expires time.Time) error {
	_, err := d.write(ctx, `UPDATE sessions SET expires = ? WHERE id = ?`, expires.UnixMilli(), id)
	return err
}

// DeleteSession ignores the number of deleted rows: a missing session is no error.
func (d *database) DeleteSession(ctx context.Context, id string) error {
	_, err := d.write(ctx, `DELETE FROM sessions WHERE id = ?`, id)
	return err
}

// Products reads the whole table; the primary key gives the order.
func (d *database) Products(ctx context.Context) ([]store.Product, error) {
	products := []store.Product{} // in JSON an empty list is [], nil is null
	err := readRows(ctx, d.allProducts, nil, func(scan scanner) error {
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

// Product reads a product by primary key.
func (d *database) Product(ctx context.Context, id string) (store.Product, error) {
	p := store.Product{ID: id}
	query := `SELECT nombre, precio, foto FROM products WHERE id = ?`
	if err := d.readRow(ctx, query, []any{id}, &p.Nombre, &p.Precio, &p.Foto); err != nil {
		return store.Product{}, err
	}
	return p, nil
}

// PutProduct inserts a row, or replaces the one of the same primary key.
func (d *database) PutProduct(ctx context.Context, p store.Product) error {
	if err := p.Check(); err != nil {
		return err
	}
	_, err := d.write(ctx, `REPLACE INTO products VALUES (?, ?, ?, ?)`, p.ID, p.Nombre, p.Precio, p.Foto)
	return err
}

// UpdateProduct counts matched rows, also those that stay the same: SQLite reports them as changed.
func (d *database) UpdateProduct(ctx context.Context, p store.Product) error {
	if err := p.Check(); err != nil {
		return err
	}
	return d.writeOne(ctx, store.ErrNotFound, `UPDATE products SET nombre = ?, precio = ?, foto = ? WHERE id = ?`,
		p.Nombre, p.Precio, p.Foto, p.ID)
}

// DeleteProduct fails with ErrNotFound when it deletes no row.
func (d *database) DeleteProduct(ctx context.Context, id string) error {
	return d.writeOne(ctx, store.ErrNotFound, `DELETE FROM products WHERE id = ?`, id)
}

// Count adds in one upsert, which SQLite runs under the write lock, so concurrent calls lose nothing. A read (n is 0) goes
// through the readers: it neither waits for the lock nor creates a row.
func (d *database) Count(ctx context.Context, key string, n int, expires time.Time) (int, error) {
	value := 0
	if n == 0 {
		err := d.readRow(ctx, `SELECT n FROM counters WHERE key = ?`, []any{key}, &value)
		if errors.Is(err, store.ErrNotFound) {
			err = nil
		}
		return value, err
	}
	if err := store.CheckText(key); err != nil {
		return 0, err
	}
	ctx, cancel := context.WithTimeout(ctx, store.CallTimeout)
	defer cancel()
	err := retryBusy(ctx, func() error {
		return d.writer.QueryRowContext(ctx, `INSERT INTO counters VALUES (?, ?, ?)
			ON CONFLICT DO UPDATE SET n = n + excluded.n RETURNING n`, key, n, expires.UnixMilli()).Scan(&value)
	})
	return value, wrap(err)
}

// PutProcess inserts or replaces the record, as one JSON text: queries look only at its expiry.
func (d *database) PutProcess(ctx context.Context, p store.Process) error {
	if err := store.CheckText(p.Server, p.Host, p.Version); err != nil { // json.Marshal replaces invalid UTF-8
		return err
	}
	record, err := json.Marshal(p)
	if err != nil {
		return err
	}
	_, err = d.write(ctx, `REPLACE INTO processes VALUES (?, ?, ?)`, p.ID, string(record), p.Expires.UnixMilli())
	return err
}

// CountProcesses counts in the index on expires.
func (d *database) CountProcesses(ctx context.Context, now time.Time) (int, error) {
	var n int
	err := d.readRow(ctx, `SELECT count(*) FROM processes WHERE expires > ?`, []any{now.UnixMilli()}, &n)
	return n, err
}

// Now is this machine's clock: all processes that share a file run here.
func (d *database) Now(ctx context.Context) (time.Time, error) {
	return time.Now().UTC(), wrap(ctx.Err())
}

// Sweep uses the indexes on expires. The statements need no transaction: a call that ends between them leaves the rest to the
// next sweep.
func (d *database) Sweep(ctx context.Context, now time.Time) (swept int, err error) {
	for _, table := range []string{"sessions", "counters", "processes"} {
		n, err := d.write(ctx, `DELETE FROM `+table+` WHERE expires <= ?`, now.UnixMilli())
		swept += n
		if err != nil {
			return swept, err
		}
	}
	return swept, nil
}
