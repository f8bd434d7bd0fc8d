package sqlitestore

import (
	"context"
	"database/sql"
	"encoding/json"
	"time"

	"balanza/services/store"
)

// selectEntry is the start of every query of entries; decode scans its columns in this order.
const selectEntry = `SELECT n, kind, subject, message, author, client_id FROM entries `

// Append writes all entries in one transaction, and thus with one fsync.
func (d *database) Append(ctx context.Context, last int64, entries []store.Entry) (int, error) {
	for _, e := range entries {
		if err := e.Check(); err != nil {
			return 0, err
		}
	}
	ctx, cancel := context.WithTimeout(ctx, store.CallTimeout)
	defer cancel()
	stored := 0
	err := retryBusy(ctx, func() (err error) {
		stored, err = d.append(ctx, last, entries)
		return err
	})
	if err != nil {
		return 0, wrap(err)
	}
	return stored, nil
}

// append is one try of Append and returns the driver's errors. The transaction holds the write lock from its begin, so the
// highest number that it reads is still the highest when it inserts, and the log gets no gap. Nothing is stored unless the
// transaction commits.
func (d *database) append(ctx context.Context, last int64, entries []store.Entry) (int, error) {
	tx, err := d.writer.BeginTx(ctx, nil)
	if err != nil {
		return 0, err
	}
	defer tx.Rollback() // has no effect after a commit
	var highest int64
	if err := tx.QueryRowContext(ctx, `SELECT coalesce(max(n), 0) FROM entries`).Scan(&highest); err != nil {
		return 0, err
	}
	if highest != last {
		return 0, nil
	}
	insert, err := tx.PrepareContext(ctx, `INSERT INTO entries VALUES (?, ?, ?, ?, ?, ?) ON CONFLICT DO NOTHING`)
	if err != nil {
		return 0, err
	}
	defer insert.Close()
	stored := 0
	for _, e := range entries {
		message, err := encode(e.Message)
		if err != nil {
			return 0, err
		}
		n := last + int64(stored) + 1
		res, err := insert.ExecContext(ctx, n, string(e.Kind), e.Subject, message, e.Author, e.ClientID)
		if err != nil {
			return 0, err
		}
		// The number is free, so a conflict means that the log has this (author, client_id).
		if rows, _ := res.RowsAffected(); rows == 0 {
			break
		}
		stored++
	}
	return stored, tx.Commit()
}

// After reads a range of the primary key.
func (d *database) After(ctx context.Context, n int64, limit int) ([]store.Entry, error) {
	entries := []store.Entry{}
	// A negative LIMIT means no limit to SQLite.
	err := readRows(ctx, d.entriesAfter, []any{n, max(0, limit)}, func(scan scanner) error {
		e, err := decode(scan)
		entries = append(entries, e)
		return err
	})
	if err != nil {
		return nil, err
	}
	return entries, nil
}

// Last reads the end of the primary key.
func (d *database) Last(ctx context.Context) (int64, error) {
	var n int64
	return n, d.readRow(ctx, `SELECT coalesce(max(n), 0) FROM entries`, nil, &n)
}

// EntryByClientID uses the index of the unique constraint.
func (d *database) EntryByClientID(ctx context.Context, author, clientID string) (store.Entry, error) {
	return decode(func(dest ...any) error {
		return d.readRow(ctx, selectEntry+`WHERE author = ? AND client_id = ?`, []any{author, clientID}, dest...)
	})
}

// encode returns the JSON of a message, or NULL for an entry without one. The time is rounded as the contract has it.
func encode(m *store.Message) (sql.NullString, error) {
	if m == nil {
		return sql.NullString{}, nil
	}
	stored := *m
	stored.Time = m.Time.UTC().Truncate(time.Millisecond)
	text, err := json.Marshal(stored)
	return sql.NullString{String: string(text), Valid: true}, err
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
