package sqlitestore

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"time"

	"balanza/services/store"
)

const (
	// fromSessions joins each session with its user, so that one whose user is gone, or has a new password, is not found.
	fromSessions = ` FROM sessions JOIN users USING (email, generation) `
	// selectSession is the start of every query of sessions; scanSession scans its columns in this order.
	selectSession = `SELECT id, email, generation, sessions.created, expires, agent, address` + fromSessions
	// selectProduct is the start of every query of products; scanProduct scans its columns in this order.
	selectProduct = `SELECT id, nombre, precio, foto, owner FROM products `
)

// CreateUser inserts a user; the primary key on the email makes one of two concurrent sign-ups fail with ErrTaken.
func (d *database) CreateUser(ctx context.Context, u store.User) error {
	if err := u.Check(); err != nil {
		return err
	}
	// The profile and the devices are JSON texts: no query looks into them.
	author, err := json.Marshal(u.Author)
	if err != nil {
		return err
	}
	devices, err := jsonTexts(u.Devices)
	if err != nil {
		return err
	}
	return d.writeOne(ctx, store.ErrTaken, `INSERT INTO users (email, password, author, created, generation, devices)
		VALUES (?, ?, ?, ?, ?, ?) ON CONFLICT DO NOTHING`,
		u.Email, notNil(u.PasswordHash), string(author), u.Created.UnixMilli(), u.Generation, devices)
}

// User reads a user by primary key.
func (d *database) User(ctx context.Context, email string) (store.User, error) {
	u := store.User{Email: email}
	var author, devices string
	var created int64
	err := d.readRow(ctx, `SELECT password, author, created, generation, devices FROM users WHERE email = ?`, []any{email},
		&u.PasswordHash, &author, &created, &u.Generation, &devices)
	if err == nil {
		err = errors.Join(json.Unmarshal([]byte(author), &u.Author), json.Unmarshal([]byte(devices), &u.Devices))
	}
	if err != nil {
		return store.User{}, err
	}
	u.Created = time.UnixMilli(created).UTC()
	return u, nil
}

// SetPassword updates a user's row.
func (d *database) SetPassword(ctx context.Context, email string, hash []byte, generation string, devices []string) error {
	list, err := jsonTexts(devices)
	if err != nil {
		return err
	}
	return d.writeOne(ctx, store.ErrNotFound, `UPDATE users SET password = ?, generation = ?, devices = ? WHERE email = ?`,
		notNil(hash), generation, list, email)
}

// SetDevices updates a user's row.
func (d *database) SetDevices(ctx context.Context, email string, devices []string) error {
	list, err := jsonTexts(devices)
	if err != nil {
		return err
	}
	return d.writeOne(ctx, store.ErrNotFound, `UPDATE users SET devices = ? WHERE email = ?`, list, email)
}

// DeleteUser deletes the user and the sessions in one transaction.
func (d *database) DeleteUser(ctx context.Context, email string) (sessions []string, err error) {
	if err := store.CheckText(email); err != nil {
		return nil, err
	}
	err = d.transact(ctx, func(ctx context.Context, tx *sql.Tx) (err error) {
		if _, err := tx.ExecContext(ctx, `DELETE FROM users WHERE email = ?`, email); err != nil {
			return err
		}
		sessions, err = deleteSessionsIn(ctx, tx, email, "")
		return err
	})
	return sessions, err
}

// CreateSession inserts a session, or fails with ErrTaken when the primary key exists.
func (d *database) CreateSession(ctx context.Context, s store.Session) error {
	return d.writeOne(ctx, store.ErrTaken, `INSERT INTO sessions (id, email, generation, created, expires, agent, address)
		VALUES (?, ?, ?, ?, ?, ?, ?) ON CONFLICT DO NOTHING`,
		s.ID, s.Email, s.Generation, s.Created.UnixMilli(), s.Expires.UnixMilli(), s.Agent, s.Address)
}

// Session compares the expiry in the query, as LiveSessions and Sweep do, so all three agree to the millisecond.
func (d *database) Session(ctx context.Context, id string, now time.Time) (store.Session, error) {
	sessions, err := readAll(ctx, d.session, []any{id, now.UnixMilli()}, scanSession)
	return only(sessions, err)
}

// SessionsOf finds the sessions by the index on email. A negative LIMIT means no limit to SQLite.
func (d *database) SessionsOf(ctx context.Context, email string, now time.Time, limit int) ([]store.Session, error) {
	return readAll(ctx, d.sessionsOf, []any{email, now.UnixMilli(), max(0, limit)}, scanSession)
}

// scanSession scans a row of selectSession.
func scanSession(scan scanner) (s store.Session, err error) {
	var created, expires int64
	err = scan(&s.ID, &s.Email, &s.Generation, &created, &expires, &s.Agent, &s.Address)
	s.Created, s.Expires = time.UnixMilli(created).UTC(), time.UnixMilli(expires).UTC()
	return s, err
}

// LiveSessions checks all sessions in one query: a process asks for those of all its websockets every few seconds.
func (d *database) LiveSessions(ctx context.Context, ids []string, now time.Time) ([]string, error) {
	list, err := jsonTexts(ids)
	if err != nil {
		return nil, err
	}
	return readAll(ctx, d.liveSessions, []any{list, now.UnixMilli()}, func(scan scanner) (id string, err error) {
		err = scan(&id)
		return id, err
	})
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

// DeleteSessionsOf finds the sessions by the index on email.
func (d *database) DeleteSessionsOf(ctx context.Context, email, except string) (ids []string, err error) {
	if err := store.CheckText(email, except); err != nil {
		return nil, err
	}
	err = d.transact(ctx, func(ctx context.Context, tx *sql.Tx) (err error) {
		ids, err = deleteSessionsIn(ctx, tx, email, except)
		return err
	})
	return ids, err
}

// deleteSessionsIn is DeleteSessionsOf in a transaction.
func deleteSessionsIn(ctx context.Context, tx *sql.Tx, email, except string) (ids []string, err error) {
	rows, err := tx.QueryContext(ctx, `DELETE FROM sessions WHERE email = ? AND id <> ? RETURNING id`, email, except)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	for rows.Next() {
		var id string
		if err := rows.Scan(&id); err != nil {
			return nil, err
		}
		ids = append(ids, id)
	}
	return ids, rows.Err()
}

// Products reads a range of the primary key. A negative LIMIT means no limit to SQLite.
func (d *database) Products(ctx context.Context, after string, limit int) ([]store.Product, error) {
	return readAll(ctx, d.productsAfter, []any{after, max(0, limit)}, scanProduct)
}

// Product reads a product by primary key.
func (d *database) Product(ctx context.Context, id string) (store.Product, error) {
	products, err := readAll(ctx, d.product, []any{id}, scanProduct)
	return only(products, err)
}

// scanProduct scans a row of selectProduct.
func scanProduct(scan scanner) (p store.Product, err error) {
	err = scan(&p.ID, &p.Nombre, &p.Precio, &p.Foto, &p.Owner)
	return p, err
}

// CreateProduct counts and inserts in one statement, which SQLite runs under the write lock.
func (d *database) CreateProduct(ctx context.Context, p store.Product, most int) error {
	if err := p.Check(); err != nil {
		return err
	}
	err := d.writeOne(ctx, store.ErrFull, `INSERT INTO products (id, nombre, precio, foto, owner) SELECT ?, ?, ?, ?, ?
		WHERE (SELECT count(*) FROM products WHERE owner = ?) < ? ON CONFLICT DO NOTHING`,
		p.ID, p.Nombre, p.Precio, p.Foto, p.Owner, p.Owner, most)
	if !errors.Is(err, store.ErrFull) {
		return err
	}
	switch _, exists := d.Product(ctx, p.ID); {
	case exists == nil:
		return store.ErrTaken
	case errors.Is(exists, store.ErrNotFound):
		return store.ErrFull
	default:
		return exists
	}
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

// PutProcess inserts or replaces the record, as one JSON text: queries look only at its expiry and its panels.
func (d *database) PutProcess(ctx context.Context, p store.Process) error {
	if err := p.Check(); err != nil { // json.Marshal replaces invalid UTF-8
		return err
	}
	record, err := json.Marshal(p)
	if err != nil {
		return err
	}
	_, err = writeThrough(ctx, d.recorder, `REPLACE INTO processes VALUES (?, ?, ?)`, p.ID, string(record), p.Expires.UnixMilli())
	return err
}

// Processes finds the records by the index on expires.
func (d *database) Processes(ctx context.Context, since time.Time) ([]store.Process, error) {
	return readAll(ctx, d.processes, []any{since.UnixMilli()}, func(scan scanner) (p store.Process, err error) {
		var record []byte
		if err := scan(&record); err != nil {
			return p, err
		}
		err = json.Unmarshal(record, &p)
		p.Started, p.Seen, p.Expires = stored(p.Started), stored(p.Seen), stored(p.Expires)
		return p, err
	})
}

// stored is a time as a column of milliseconds returns it.
func stored(t time.Time) time.Time { return t.Truncate(time.Millisecond).UTC() }

// CountProcesses counts in the indexes: the one of records with panels is empty most of the time.
func (d *database) CountProcesses(ctx context.Context, now time.Time) (live, panels int, err error) {
	err = d.readRow(ctx, `SELECT (SELECT count(*) FROM processes WHERE expires > ?1), (
		SELECT coalesce(sum(json_extract(record, '$.Panels')), 0) FROM processes
		WHERE json_extract(record, '$.Panels') > 0 AND expires > ?1)`, []any{now.UnixMilli()}, &live, &panels)
	return live, panels, err
}

// Now is this machine's clock: all processes that share a file run here.
func (d *database) Now(ctx context.Context) (time.Time, error) {
	return time.Now().UTC(), wrap(ctx.Err())
}

// Sweep uses the indexes on expires. The statements need no transaction: a call that ends between them leaves the rest to the
// next sweep.
func (d *database) Sweep(ctx context.Context, now time.Time) (swept int, err error) {
	for table, before := range map[string]time.Time{
		"sessions": now, "counters": now, "holds": now, "processes": now.Add(-store.EndedKept),
	} {
		n, err := d.write(ctx, `DELETE FROM `+table+` WHERE expires <= ?`, before.UnixMilli())
		swept += n
		if err != nil {
			return swept, err
		}
	}
	return swept, nil
}

// jsonTexts returns a list of texts as JSON. The check comes before the encoding: json.Marshal replaces invalid UTF-8.
func jsonTexts(texts []string) (string, error) {
	if err := store.CheckText(texts...); err != nil {
		return "", err
	}
	list, err := json.Marshal(texts)
	return string(list), err
}

// notNil returns b, or an empty slice for nil, which would be stored as NULL.
func notNil(b []byte) []byte { return append([]byte{}, b...) }
