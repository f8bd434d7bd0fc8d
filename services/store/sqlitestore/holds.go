package sqlitestore

import (
	"context"
	"database/sql"
	"encoding/json"
	"maps"
	"slices"
	"time"

	"balanza/services/store"
)

// Hold writes all numbers and reads the sums in one transaction, and thus with one fsync: of two processes that ask at the
// same time, the second one sees what the first has written.
func (d *database) Hold(
	ctx context.Context, holder string, counts map[string]int, now, expires time.Time,
) (map[string]int, error) {
	keys := slices.Collect(maps.Keys(counts))
	if err := store.CheckText(append(keys, holder)...); err != nil {
		return nil, err
	}
	list, err := json.Marshal(keys)
	if err != nil {
		return nil, err
	}
	var totals map[string]int
	err = d.transact(ctx, func(ctx context.Context, tx *sql.Tx) error {
		if err := writeHolds(ctx, tx, holder, counts, expires); err != nil {
			return err
		}
		totals, err = sumHolds(ctx, tx, string(list), now)
		return err
	})
	return totals, err
}

// writeHolds replaces the numbers of a holder.
func writeHolds(ctx context.Context, tx *sql.Tx, holder string, counts map[string]int, expires time.Time) error {
	put, err := tx.PrepareContext(ctx, `REPLACE INTO holds VALUES (?, ?, ?, ?)`)
	if err != nil {
		return err
	}
	defer put.Close()
	remove, err := tx.PrepareContext(ctx, `DELETE FROM holds WHERE key = ? AND holder = ?`)
	if err != nil {
		return err
	}
	defer remove.Close()
	for key, n := range counts {
		if n > 0 {
			_, err = put.ExecContext(ctx, key, holder, n, expires.UnixMilli())
		} else {
			_, err = remove.ExecContext(ctx, key, holder)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// sumHolds adds up the numbers of the keys, a JSON array.
func sumHolds(ctx context.Context, tx *sql.Tx, keys string, now time.Time) (map[string]int, error) {
	rows, err := tx.QueryContext(ctx, `SELECT key, sum(n) FROM holds
		WHERE key IN (SELECT value FROM json_each(?)) AND expires > ? GROUP BY key`, keys, now.UnixMilli())
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	totals := make(map[string]int)
	for rows.Next() {
		var key string
		var n int
		if err := rows.Scan(&key, &n); err != nil {
			return nil, err
		}
		totals[key] = n
	}
	return totals, rows.Err()
}
