// Package sqlitestore implements store.Store in one SQLite file, which several processes of one machine may share.
package sqlitestore

import (
	"context"
	"database/sql"
	"embed"
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

// schemas are the changes from one version of the schema to the next: schema.1.sql makes version 1 of an empty file.
//
//go:embed schema.*.sql
var schemas embed.FS

const schemaVersion = 3

const (
	openTimeout   = 10 * time.Second // enough for eight processes that create the file at the same time
	maxReaders    = 4                // connections of one process that read
	maxRetryDelay = 300 * time.Microsecond
)

// database implements store.Store. All writes go through one connection: the writers of one process then queue in order
// in database/sql, and only processes compete for SQLite's lock, where the order is random.
type database struct {
	writer, reader *sql.DB
	// recorder writes the records of processes, which are written again within seconds, without fsync.
	recorder *sql.DB
	// These queries are prepared once, since every process runs them all the time: a log polls the entries up to a
	// hundred times a second, most requests look a session up, and an open panel reads all processes every second.
	entriesAfter, session, sessionsOf, liveSessions, product, productsAfter, processes *sql.Stmt
}

// Open opens the SQLite file of that path. It creates a missing file with mode 0600 and its folder with mode 0700, since
// the file contains password hashes. An acknowledged write is on the disk. The error names the path; it is
// none of the store's errors, since a wrong path does not recover.
func Open(ctx context.Context, path string) (store.Store, error) {
	if err := createFile(path); err != nil {
		return nil, fmt.Errorf("open the store: %w", err)
	}
	ctx, cancel := context.WithTimeout(ctx, openTimeout)
	defer cancel()
	writer, err := connect(path, 1, 0, "FULL") // a commit returns after fsync: NORMAL can lose the last ones in a power cut
	if err != nil {
		return nil, fmt.Errorf("open the store %s: %w", path, err)
	}
	if err := retryBusy(ctx, func() error { return migrate(ctx, writer) }); err != nil {
		return nil, errors.Join(fmt.Errorf("open the store %s: %w", path, err), writer.Close())
	}
	reader, err := connect(path, maxReaders, store.CallTimeout, "FULL")
	if err != nil {
		return nil, errors.Join(fmt.Errorf("open the store %s: %w", path, err), writer.Close())
	}
	recorder, err := connect(path, 1, 0, "NORMAL")
	if err != nil {
		return nil, errors.Join(fmt.Errorf("open the store %s: %w", path, err), writer.Close(), reader.Close())
	}
	d := &database{writer: writer, reader: reader, recorder: recorder}
	if err := retryBusy(ctx, func() error { return d.prepare(ctx) }); err != nil {
		return nil, errors.Join(fmt.Errorf("open the store %s: %w", path, err), d.Close())
	}
	return d, nil
}

// migrate brings the file's schema to schemaVersion. Every process calls it at its start: the transaction takes the write
// lock first, so that one of several changes the schema. A file of a later version is left alone: its tables have all that
// this version needs.
func migrate(ctx context.Context, writer *sql.DB) error {
	tx, err := writer.BeginTx(ctx, nil)
	if err != nil {
		return err
	}
	defer tx.Rollback() // has no effect after a commit
	var version int
	if err := tx.QueryRowContext(ctx, `PRAGMA user_version`).Scan(&version); err != nil {
		return err
	}
	if version >= schemaVersion {
		return nil
	}
	for version++; version <= schemaVersion; version++ {
		change, err := schemas.ReadFile(fmt.Sprintf("schema.%d.sql", version))
		if err != nil {
			return err
		}
		if _, err := tx.ExecContext(ctx, string(change)); err != nil {
			return fmt.Errorf("schema version %d: %w", version, err)
		}
	}
	if _, err := tx.ExecContext(ctx, fmt.Sprintf(`PRAGMA user_version = %d`, schemaVersion)); err != nil {
		return err
	}
	return tx.Commit()
}

// prepare prepares the frequent queries.
func (d *database) prepare(ctx context.Context) error {
	for query, prepared := range map[string]**sql.Stmt{
		selectEntry + `WHERE n > ? ORDER BY n LIMIT ?`:                                           &d.entriesAfter,
		selectSession + `WHERE id = ? AND expires > ?`:                                           &d.session,
		selectSession + `WHERE email = ? AND expires > ? ORDER BY sessions.created DESC LIMIT ?`: &d.sessionsOf,
		// json_each turns one argument into a list of any length; a list of placeholders would be limited and need
		// preparing for each length.
		`SELECT id` + fromSessions + `WHERE id IN (SELECT value FROM json_each(?)) AND expires > ?`: &d.liveSessions,
		selectProduct + `WHERE id = ?`:                     &d.product,
		selectProduct + `WHERE id > ? ORDER BY id LIMIT ?`: &d.productsAfter,
		`SELECT record FROM processes WHERE expires > ?`:   &d.processes,
	} {
		var err error
		if *prepared, err = d.reader.PrepareContext(ctx, query); err != nil {
			return err
		}
	}
	return nil
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
// synchronous is how durable a commit is.
func connect(path string, connections int, busyTimeout time.Duration, synchronous string) (*sql.DB, error) {
	path, err := filepath.Abs(path)
	if err != nil {
		return nil, err
	}
	options := url.Values{
		"_pragma": {
			fmt.Sprintf("busy_timeout(%d)", busyTimeout.Milliseconds()),
			"journal_mode(WAL)", // readers and the writer do not block one another
			fmt.Sprintf("synchronous(%s)", synchronous),
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
	return errors.Join(d.reader.Close(), d.recorder.Close(), d.writer.Close())
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
	return writeThrough(ctx, d.writer, statement, args...)
}

// writeThrough is write with one of the connections that write.
func writeThrough(ctx context.Context, writer *sql.DB, statement string, args ...any) (int, error) {
	if err := checkTexts(args); err != nil {
		return 0, err
	}
	ctx, cancel := context.WithTimeout(ctx, store.CallTimeout)
	defer cancel()
	var n int64
	err := retryBusy(ctx, func() error {
		res, err := writer.ExecContext(ctx, statement, args...)
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

// readAll returns what scan makes of every row of a query, in JSON [] when there is none. It checks all texts among the
// arguments.
func readAll[T any](ctx context.Context, query *sql.Stmt, args []any, scan func(scanner) (T, error)) ([]T, error) {
	if err := checkTexts(args); err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, store.CallTimeout)
	defer cancel()
	rows, err := query.QueryContext(ctx, args...)
	if err != nil {
		return nil, wrap(err)
	}
	defer rows.Close()
	all := []T{}
	for rows.Next() {
		value, err := scan(rows.Scan)
		if err != nil {
			return nil, wrap(err)
		}
		all = append(all, value)
	}
	if err := rows.Err(); err != nil {
		return nil, wrap(err)
	}
	return all, nil
}

// only returns the first of the results of readAll, or fails with ErrNotFound when there is none.
func only[T any](all []T, err error) (first T, _ error) {
	switch {
	case err != nil:
		return first, err
	case len(all) == 0:
		return first, store.ErrNotFound
	}
	return all[0], nil
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
