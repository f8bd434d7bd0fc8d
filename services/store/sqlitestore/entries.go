package sqlitestore

import (
	"bytes"
	"context"
	"database/sql"
	"encoding/json"
	"strings"
	"time"

	"balanza/services/store"
)

const (
	// selectEntry is the start of every query of entries; decode scans its columns in this order.
	selectEntry = `SELECT n, kind, subject, message, author, client_id FROM entries `
	insertEntry = `INSERT INTO entries VALUES (?, ?, ?, ?, ?, ?) ON CONFLICT DO NOTHING`
	selectLast  = `SELECT coalesce(max(n), 0) FROM entries`
)

// Append writes all entries in one transaction, and thus with one fsync.
func (d *database) Append(ctx context.Context, entries []store.Entry) ([]store.Entry, error) {
	for _, e := range entries {
		if err := e.Check(); err != nil {
			return nil, err
		}
	}
	var stored []store.Entry
	err := d.transact(ctx, func(ctx context.Context, tx *sql.Tx) (err error) {
		stored, err = appendIn(ctx, tx, entries)
		return err
	})
	return stored, err
}

// appendIn appends in a transaction, which holds the write lock from its begin. So the highest number that it reads is still
// the highest when it inserts.
func appendIn(ctx context.Context, tx *sql.Tx, entries []store.Entry) ([]store.Entry, error) {
	var last int64
	if err := tx.QueryRowContext(ctx, selectLast).Scan(&last); err != nil {
		return nil, err
	}
	insert, err := tx.PrepareContext(ctx, insertEntry)
	if err != nil {
		return nil, err
	}
	defer insert.Close()
	stored := make([]store.Entry, len(entries))
	for i, e := range entries {
		e.N = last + 1
		inserted, err := insertIn(ctx, insert, e)
		if err != nil {
			return nil, err
		}
		if inserted {
			last = e.N
			stored[i] = e
			continue
		}
		// The number is free, so the log has this (author, client_id).
		stored[i], err = decode(tx.QueryRowContext(ctx, selectEntry+`WHERE author = ? AND client_id = ?`, e.Author, e.ClientID).Scan)
		if err != nil {
			return nil, err
		}
	}
	return stored, nil
}

// insertIn runs the prepared insertEntry and reports whether it inserted the entry: not when its number, or its author and
// client id, are in the log.
func insertIn(ctx context.Context, insert *sql.Stmt, e store.Entry) (bool, error) {
	message, err := encode(e.Message)
	if err != nil {
		return false, err
	}
	res, err := insert.ExecContext(ctx, e.N, string(e.Kind), e.Subject, message, e.Author, e.ClientID)
	if err != nil {
		return false, err
	}
	rows, err := res.RowsAffected()
	return rows > 0, err
}

// Fill finds numbers to fill only where entries were deleted: Append leaves no number without an entry.
func (d *database) Fill(ctx context.Context, first, last int64) error {
	return d.transact(ctx, func(ctx context.Context, tx *sql.Tx) error {
		insert, err := tx.PrepareContext(ctx, insertEntry)
		if err != nil {
			return err
		}
		defer insert.Close()
		for n := first; n <= last; n++ {
			filler := store.Entry{N: n, Kind: store.Filler, ClientID: store.NewEventID(time.Now())}
			if _, err := insertIn(ctx, insert, filler); err != nil {
				return err
			}
		}
		return nil
	})
}

// After reads a range of the primary key. A negative LIMIT means no limit to SQLite.
func (d *database) After(ctx context.Context, n int64, limit int) ([]store.Entry, error) {
	return readAll(ctx, d.entriesAfter, []any{n, max(0, limit)}, decode)
}

// Last reads the end of the primary key.
func (d *database) Last(ctx context.Context) (int64, error) {
	var n int64
	err := d.readRow(ctx, selectLast, nil, &n)
	return n, err
}

// DeleteEvents finds events by the index of client ids: these sort by time, and only events have no author.
func (d *database) DeleteEvents(ctx context.Context, n int64, before time.Time) (int, error) {
	return d.write(ctx, `DELETE FROM entries WHERE n IN
		(SELECT n FROM entries WHERE author = '' AND client_id < ? AND n <= ? LIMIT ?)`, store.NewEventID(before), n, store.DeleteBatch)
}

// DeleteEntries deletes from the start of the primary key.
func (d *database) DeleteEntries(ctx context.Context, n int64) (int, error) {
	return d.write(ctx, `DELETE FROM entries WHERE n IN (SELECT n FROM entries WHERE n <= ? ORDER BY n LIMIT ?)`, n, store.DeleteBatch)
}

// encode returns the JSON of a message, or NULL for an entry without one. The time is rounded as the contract has it.
func encode(m *store.Message) (sql.NullString, error) {
	if m == nil {
		return sql.NullString{}, nil
	}
	stored := *m
	stored.Time = m.Time.UTC().Truncate(time.Millisecond)
	var text bytes.Buffer
	e := json.NewEncoder(&text)
	e.SetEscapeHTML(false) // <, > and & would take six bytes each
	err := e.Encode(stored)
	return sql.NullString{String: strings.TrimSuffix(text.String(), "\n"), Valid: true}, err
}

// decode scans a row of selectEntry.
func decode(scan scanner) (store.Entry, error) {
	var e store.Entry
	var message sql.NullString
	if err := scan(&e.N, &e.Kind, &e.Subject, &message, &e.Author, &e.ClientID); err != nil {
		return store.Entry{}, err
	}
	if !message.Valid {
		return e, nil
	}
	if err := json.Unmarshal([]byte(message.String), &e.Message); err != nil {
		return store.Entry{}, err
	}
	return e, nil
}
