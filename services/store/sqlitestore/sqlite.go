// Package sqlitestore keeps Balanza's data in one SQLite file, which several processes of one machine may share.
package sqlitestore

import (
	"context"
	"database/sql"
	_ "embed"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/url"
	"os"
	"path/filepath"
	"time"

	"modernc.org/sqlite"
	sqlite3 "modernc.org/sqlite/lib"

	"balanza/services/store"
)

//go:embed schema.sql
var schema string

const (
	openPatience = 10 * time.Second // for eight processes that all want to make the file
	readers      = 4                // connections
	maxStep      = 4 * time.Millisecond
)

// database implements store.Store. All writes go through one connection, so that the writers of one process queue in
// order and only processes meet at SQLite's lock, where waiting is by chance.
type database struct {
	writer, reader *sql.DB
	// Prepared once: a log asks for what came after up to a hundred times a second.
	after, products, live *sql.Stmt
}

// Open opens the file, and makes it and its folder when they are not there: for nobody but the user. What is acknowledged is
// on the disk (synchronous=FULL).
func Open(ctx context.Context, path string) (store.Store, error) {
	if err := create(path); err != nil {
		return nil, fmt.Errorf("open the store: %w", err)
	}
	ctx, cancel := context.WithTimeout(ctx, openPatience)
	defer cancel()
	writer, err := connect(path, 1, 0)
	if err != nil {
		return nil, fmt.Errorf("open the store %s: %w", path, err)
	}
	err = untilFree(ctx, func() error {
		_, err := writer.ExecContext(ctx, schema)
		return err
	})
	if err != nil {
		return nil, errors.Join(fmt.Errorf("open the store %s: %w", path, err), writer.Close())
	}
	reader, err := connect(path, readers, store.Patience)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("open the store %s: %w", path, err), writer.Close())
	}
	d := &database{writer: writer, reader: reader}
	if err := untilFree(ctx, func() error { return d.prepare(ctx) }); err != nil {
		return nil, errors.Join(fmt.Errorf("open the store %s: %w", path, err), d.Close())
	}
	return d, nil
}

func (d *database) prepare(ctx context.Context) (err error) {
	if d.after, err = d.reader.PrepareContext(ctx, columns+`WHERE n > ? ORDER BY n LIMIT ?`); err != nil {
		return err
	}
	live := `SELECT id FROM sessions WHERE id IN (SELECT value FROM json_each(?)) AND expires > ?`
	if d.live, err = d.reader.PrepareContext(ctx, live); err != nil {
		return err
	}
	d.products, err = d.reader.PrepareContext(ctx, `SELECT id, nombre, precio, foto FROM products ORDER BY id`)
	return err
}

// create makes the file with its mode; SQLite gives the files beside it the same.
func create(path string) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return err
	}
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return err
	}
	return f.Close()
}

func connect(path string, connections int, patience time.Duration) (*sql.DB, error) {
	path, err := filepath.Abs(path)
	if err != nil {
		return nil, err
	}
	options := url.Values{
		"_pragma": {
			fmt.Sprintf("busy_timeout(%d)", patience.Milliseconds()),
			"journal_mode(WAL)",
			"synchronous(FULL)",
		},
		"_txlock": {"immediate"},
	}
	name := url.URL{Scheme: "file", Path: path, RawQuery: options.Encode()}
	db, err := sql.Open("sqlite", name.String())
	if err != nil {
		return nil, err
	}
	db.SetMaxOpenConns(connections)
	db.SetMaxIdleConns(connections)
	return db, nil
}

// Ping asks the file, not only the connection.
func (d *database) Ping(ctx context.Context) error {
	_, err := d.Last(ctx)
	return err
}

// Close ends all connections.
func (d *database) Close() error {
	return errors.Join(d.reader.Close(), d.writer.Close())
}

// untilFree tries to write until no other process holds the file's lock. SQLite's own wait sleeps for longer each time,
// so that who waits for long loses to who comes late; it also does not wait at all where a file is turned to WAL.
func untilFree(ctx context.Context, write func() error) error {
	for {
		err := write()
		if !isBusy(err) {
			return err
		}
		select {
		case <-ctx.Done():
			return err
		case <-time.After(rand.N(maxStep)):
		}
	}
}

// write runs one statement and returns how many rows it changed.
func (d *database) write(ctx context.Context, statement string, args ...any) (int, error) {
	ctx, cancel := context.WithTimeout(ctx, store.Patience)
	defer cancel()
	var n int64
	err := untilFree(ctx, func() error {
		res, err := d.writer.ExecContext(ctx, statement, args...)
		if err != nil {
			return err
		}
		n, err = res.RowsAffected()
		return err
	})
	return int(n), wrap(err)
}

// writeOne is write for a statement that changes one row, or none when it is not there.
func (d *database) writeOne(ctx context.Context, statement string, args ...any) error {
	n, err := d.write(ctx, statement, args...)
	if err == nil && n == 0 {
		return store.ErrNotFound
	}
	return err
}

// row reads one row into the places dest.
func (d *database) row(ctx context.Context, query string, args []any, dest ...any) error {
	ctx, cancel := context.WithTimeout(ctx, store.Patience)
	defer cancel()
	return wrap(d.reader.QueryRowContext(ctx, query, args...).Scan(dest...))
}

// rows calls each for every row.
func rows(ctx context.Context, query *sql.Stmt, args []any, each func(scan scanner) error) error {
	ctx, cancel := context.WithTimeout(ctx, store.Patience)
	defer cancel()
	rows, err := query.QueryContext(ctx, args...)
	if err != nil {
		return wrap(err)
	}
	defer rows.Close()
	for rows.Next() {
		if err := each(rows.Scan); err != nil {
			return wrap(err)
		}
	}
	return wrap(rows.Err())
}

// scanner is the Scan of sql.Row and of sql.Rows.
type scanner func(dest ...any) error

// wrap tells the contract's errors. Whatever else goes wrong with a file (full, locked, gone, a broken disk) may be over
// at the next try.
func wrap(err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, sql.ErrNoRows):
		return store.ErrNotFound
	default:
		return fmt.Errorf("%w: %w", store.ErrUnavailable, err)
	}
}

func isBusy(err error) bool {
	var e *sqlite.Error
	return errors.As(err, &e) && (e.Code()&0xff == sqlite3.SQLITE_BUSY || e.Code()&0xff == sqlite3.SQLITE_LOCKED)
}
