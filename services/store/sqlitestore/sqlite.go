// Package sqlitestore implements store.Store in one SQLite file, which several processes of one machine may share.
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
	openTimeout   = 10 * time.Second // enough for eight processes that create the file at the same time
	maxReaders    = 4                // connections of one process that read
	maxRetryDelay = 300 * time.Microsecond
)

// database implements store.Store. All writes go through one connection: the writers of one process then queue in order
// in database/sql, and only processes compete for SQLite's lock, where the order is random.
type database struct {
	writer, reader *sql.DB
	// These queries are prepared once, since every process runs them all the time: a log polls the entries up to a
	// hundred times a second.
	entriesAfter, allProducts, liveSessions *sql.Stmt
}

// Open opens the SQLite file of that path. It creates a missing file with mode 0600 and its folder with mode 0700, since
// the file contains password hashes and session ids. An acknowledged write is on the disk. The error names the path; it is
// none of the store's errors, since a wrong path does not recover.
func Open(ctx context.Context, path string) (store.Store, error) {
	if err := createFile(path); err != nil {
		return nil, fmt.Errorf("open the store: %w", err)
	}
	ctx, cancel := context.WithTimeout(ctx, openTimeout)
	defer cancel()
	writer, err := connect(path, 1, 0)
	if err != nil {
		return nil, fmt.Errorf("open the store %s: %w", path, err)
	}
	err = retryBusy(ctx, func() error {
		_, err := writer.ExecContext(ctx, schema)
		return err
	})
	if err != nil {
		return nil, errors.Join(fmt.Errorf("open the store %s: %w", path, err), writer.Close())
	}
	reader, err := connect(path, maxReaders, store.CallTimeout)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("open the store %s: %w", path, err), writer.Close())
	}
	d := &database{writer: writer, reader: reader}
	if err := retryBusy(ctx, func() error { return d.prepare(ctx) }); err != nil {
		return nil, errors.Join(fmt.Errorf("open the store %s: %w", path, err), d.Close())
	}
	return d, nil
}

// prepare prepares the frequent queries.
func (d *database) prepare(ctx context.Context) (err error) {
	if d.entriesAfter, err = d.reader.PrepareContext(ctx, selectEntry+`WHERE n > ? ORDER BY n LIMIT ?`); err != nil {
		return err
	}
	// json_each turns one argument into a list of any length; a list of placeholders would be limited and need preparing
	// for each length.
	live := `SELECT id FROM sessions WHERE id IN (SELECT value FROM json_each(?)) AND expires > ?`
	if d.liveSessions, err = d.reader.PrepareContext(ctx, live); err != nil {
		return err
	}
	d.allProducts, err = d.reader.PrepareContext(ctx, `SELECT id, nombre, precio, foto FROM products ORDER BY id`)
	return err
}

// createFile creates a missing file with mode 0600; SQLite gives the -wal and -shm files the same mode.
func createFile(path string) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return err
	}
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return err
	}
	return f.Close()
}

// connect returns a pool of connections to the file. SQLite itself waits up to busyTimeout for another process's lock.
func connect(path string, connections int, busyTimeout time.Duration) (*sql.DB, error) {
	path, err := filepath.Abs(path)
	if err != nil {
		return nil, err
	}
	options := url.Values{
		"_pragma": {
			fmt.Sprintf("busy_timeout(%d)", busyTimeout.Milliseconds()),
			"journal_mode(WAL)", // readers and the writer do not block one another
			"synchronous(FULL)", // a commit returns after fsync: NORMAL can lose the last commits in a power cut
		},
		// A transaction takes the write lock when it begins. One that starts with a read and takes the lock later fails
		// at once, whatever the timeout, when another process wrote in between.
		"_txlock": {"immediate"},
	}
	// A URL, so that a path with a question mark or a percent sign is not read as options.
	name := url.URL{Scheme: "file", Path: path, RawQuery: options.Encode()}
	db, err := sql.Open("sqlite", name.String())
	if err != nil {
		return nil, err
	}
	db.SetMaxOpenConns(connections)
	db.SetMaxIdleConns(connections)
	return db, nil
}

// Ping reads from the file: database/sql's own Ping touches only the connection.
func (d *database) Ping(ctx context.Context) error {
	_, err := d.Last(ctx)
	return err
}

// Close closes all connections.
func (d *database) Close() error {
	return errors.Join(d.reader.Close(), d.writer.Close())
}

// retryBusy repeats a write until no other process holds the file's lock, or ctx ends. SQLite's busy_timeout is unfair to
// writers: it sleeps longer after each try, so a process that has waited long loses to one that has just started to wait.
// It also does not wait at all while a new file is switched to WAL.
func retryBusy(ctx context.Context, write func() error) error {
	for {
		err := write()
		if !isBusy(err) {
			return err
		}
		select {
		case <-ctx.Done():
			return err
		case <-time.After(rand.N(maxRetryDelay)):
		}
	}
}

// write runs one statement and returns the number of rows that it changed. It checks all texts among the arguments.
func (d *database) write(ctx context.Context, statement string, args ...any) (int, error) {
	if err := checkTexts(args); err != nil {
		return 0, err
	}
	ctx, cancel := context.WithTimeout(ctx, store.CallTimeout)
	defer cancel()
	var n int64
	err := retryBusy(ctx, func() error {
		res, err := d.writer.ExecContext(ctx, statement, args...)
		if err != nil {
			return err
		}
		n, err = res.RowsAffected()
		return err
	})
	return int(n), wrap(err)
}

// transact runs a transaction, again and again while another process holds the lock. Nothing is stored unless it commits.
func (d *database) transact(ctx context.Context, run func(ctx context.Context, tx *sql.Tx) error) error {
	ctx, cancel := context.WithTimeout(ctx, store.CallTimeout)
	defer cancel()
	return wrap(retryBusy(ctx, func() error {
		tx, err := d.writer.BeginTx(ctx, nil)
		if err != nil {
			return err
		}
		defer tx.Rollback() // has no effect after a commit
		if err := run(ctx, tx); err != nil {
			return err
		}
		return tx.Commit()
	}))
}

// writeOne runs a statement that changes one row. It fails with errNone when the statement changes none: an UPDATE or a
// DELETE finds no row, or an INSERT … ON CONFLICT DO NOTHING finds the key in use.
func (d *database) writeOne(ctx context.Context, errNone error, statement string, args ...any) error {
	n, err := d.write(ctx, statement, args...)
	if err == nil && n == 0 {
		return errNone
	}
	return err
}

// readRow scans the one row of a query into dest. It checks all texts among the arguments, and fails with ErrNotFound when
// there is no row.
func (d *database) readRow(ctx context.Context, query string, args []any, dest ...any) error {
	if err := checkTexts(args); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, store.CallTimeout)
	defer cancel()
	return wrap(d.reader.QueryRowContext(ctx, query, args...).Scan(dest...))
}

// readRows calls each for every row of a query.
func readRows(ctx context.Context, query *sql.Stmt, args []any, each func(scan scanner) error) error {
	ctx, cancel := context.WithTimeout(ctx, store.CallTimeout)
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

// scanner is the method Scan of sql.Row and of sql.Rows.
type scanner func(dest ...any) error

// checkTexts applies store.CheckText to the strings among the arguments of a statement: SQLite stores any bytes as text.
func checkTexts(args []any) error {
	for _, arg := range args {
		if text, ok := arg.(string); ok {
			if err := store.CheckText(text); err != nil {
				return err
			}
		}
	}
	return nil
}

// wrap maps an error of the driver to the errors of the contract.
func wrap(err error) error { return store.WrapError(err, sql.ErrNoRows) }

// isBusy reports whether another connection holds the lock that a statement needs.
func isBusy(err error) bool {
	e, ok := errors.AsType[*sqlite.Error](err)
	if !ok {
		return false
	}
	code := e.Code() & 0xff // the low byte of an extended result code is the primary code
	return code == sqlite3.SQLITE_BUSY || code == sqlite3.SQLITE_LOCKED
}
