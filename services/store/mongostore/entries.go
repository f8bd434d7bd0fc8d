package mongostore

import (
	"context"
	"errors"
	"fmt"
	"time"

	"go.mongodb.org/mongo-driver/bson"
	"go.mongodb.org/mongo-driver/mongo"
	"go.mongodb.org/mongo-driver/mongo/options"

	"balanza/services/store"
)

// The document of sequences that counts the numbers given out.
const (
	entrySequence = "entries"
	sequenceField = "last"
)

// maxAttempts is how often one call of Append takes new numbers. Each further attempt needs another process to have filled
// the numbers of the one before, or a sequence that had fallen behind.
const maxAttempts = 8

// readBatch is how many entries a cursor returns at a time. What arrived before a timeout is returned, so that a caller
// that is far behind gets on however slow the server is.
const readBatch = 100

// Append reserves numbers for the entries with one $inc, and inserts them under these. The design is that of CORFU
// (Balakrishnan et al., NSDI 2012): the sequence only suggests numbers, and the unique _id alone makes each of them
// write-once, so that a sequence that was lost or set back does no harm.
func (d *database) Append(ctx context.Context, entries []store.Entry) ([]store.Entry, error) {
	for _, e := range entries {
		if err := e.Check(); err != nil {
			return nil, err
		}
	}
	ctx, cancel := context.WithTimeout(ctx, store.CallTimeout)
	defer cancel()
	t, err := d.use(ctx)
	if err != nil {
		return nil, err
	}
	stored := map[store.EntryID]store.Entry{}
	pending := entries
	for range maxAttempts {
		if len(pending) == 0 {
			break
		}
		if pending, err = d.appendOnce(ctx, t, pending, stored); err != nil {
			return nil, err
		}
	}
	if len(pending) > 0 {
		return nil, fmt.Errorf("%w: %d times other entries had the numbers", store.ErrUnavailable, maxAttempts)
	}
	result := make([]store.Entry, len(entries))
	for i, e := range entries {
		result[i] = stored[e.ID()]
		d.known(result[i].N)
	}
	return result, nil
}

// appendOnce reserves numbers for the entries and inserts them in order, up to the first conflict: its number or its ID is
// in the log. It adds the entries that the log has to stored, and returns those that it has not.
func (d *database) appendOnce(
	ctx context.Context, t *tables, entries []store.Entry, stored map[store.EntryID]store.Entry,
) (pending []store.Entry, err error) {
	first, err := d.reserve(ctx, t, len(entries))
	if err != nil {
		return nil, err
	}
	docs := make([]any, len(entries))
	for i, e := range entries {
		e.N = first + int64(i)
		docs[i] = e
	}
	inserted := len(docs)
	if _, err := t.entries.InsertMany(ctx, docs); err != nil {
		bulk, ok := onlyDuplicates(err)
		if !ok {
			return nil, wrap(err)
		}
		inserted = bulk.WriteErrors[0].Index
	}
	for _, doc := range docs[:inserted] {
		e := doc.(store.Entry)
		stored[e.ID()] = e
	}
	rest := entries[inserted:]
	if len(rest) == 0 {
		return nil, nil
	}
	found, err := t.findByID(ctx, rest)
	if err != nil {
		return nil, err
	}
	// A filler is written after the look-up and with a journaled write. So what was found is in the journal too, also on a
	// standalone server, where a read may see an entry that is not yet.
	if err := t.fill(ctx, first+int64(inserted), first+int64(len(entries))-1); err != nil {
		return nil, err
	}
	for _, e := range rest {
		if f, ok := found[e.ID()]; ok {
			stored[e.ID()] = f
		} else {
			pending = append(pending, e)
		}
	}
	if len(pending) > 0 && pending[0].ID() == rest[0].ID() { // its number was taken
		return pending, d.raiseSequence(ctx, t)
	}
	return pending, nil
}

// reserve returns the first of n numbers in a row that nobody else gets. When the sequence has fallen behind (a failover, a
// restored backup, somebody who set it back), it gives out numbers up to the highest known one again. These must not be used
// even if they are free: their entries were deleted, and followers are past them.
func (d *database) reserve(ctx context.Context, t *tables, n int) (first int64, err error) {
	if d.highest.Load() == 0 { // nothing is known yet, or the log is empty
		if _, err := d.Last(ctx); err != nil {
			return 0, err
		}
	}
	for {
		highest := d.highest.Load() // before the $inc: numbers that are given out later may be known after it
		last, err := increment(ctx, t.sequences, entrySequence, sequenceField, n, nil)
		if err != nil {
			return 0, err
		}
		if first := last - int64(n) + 1; first > highest {
			return first, nil
		}
		if err := d.raiseSequence(ctx, t); err != nil {
			return 0, err
		}
	}
}

// raiseSequence makes the sequence at least the highest number of the log.
func (d *database) raiseSequence(ctx context.Context, t *tables) error {
	if _, err := d.Last(ctx); err != nil {
		return err
	}
	raise := bson.D{{Key: "$max", Value: bson.D{{Key: sequenceField, Value: d.highest.Load()}}}}
	_, err := t.sequences.UpdateOne(ctx, byID(entrySequence), raise)
	return wrap(err)
}

// known remembers that a number has an entry.
func (d *database) known(n int64) {
	for highest := d.highest.Load(); n > highest && !d.highest.CompareAndSwap(highest, n); highest = d.highest.Load() {
	}
}

// findByID returns those of the entries that the log has, as they are stored there.
func (t *tables) findByID(ctx context.Context, entries []store.Entry) (map[store.EntryID]store.Entry, error) {
	var authors, clientIDs []string
	for _, e := range entries {
		authors, clientIDs = append(authors, e.Author), append(clientIDs, e.ClientID)
	}
	// The query also matches the client ids of one author with another author; the map tells them apart.
	docs, err := findAll[store.Entry](ctx, t.entries, bson.D{where("author", "$in", authors), where("clientId", "$in", clientIDs)}, nil)
	found := make(map[store.EntryID]store.Entry, len(docs))
	for _, e := range docs {
		found[e.ID()] = e
	}
	return found, err
}

// fill inserts a filler under every number from first to last that is free. The order does not matter, so one number that is
// taken does not keep the others from being filled.
func (t *tables) fill(ctx context.Context, first, last int64) error {
	var fillers []any
	for n := first; n <= last; n++ {
		fillers = append(fillers, store.Entry{N: n, Kind: store.Filler, ClientID: store.NewEventID(time.Now())})
	}
	if len(fillers) == 0 {
		return nil
	}
	_, err := t.entries.InsertMany(ctx, fillers, options.InsertMany().SetOrdered(false))
	if _, ok := onlyDuplicates(err); ok {
		return nil
	}
	return wrap(err)
}

// Fill lets the unique _id decide between a filler and the process that was given the number.
func (d *database) Fill(ctx context.Context, first, last int64) error {
	t, err := d.use(ctx)
	if err != nil {
		return err
	}
	return t.fill(ctx, first, last)
}

// After reads the range above n by the index of _id.
func (d *database) After(ctx context.Context, n int64, limit int) ([]store.Entry, error) {
	if limit <= 0 { // which MongoDB takes for no limit
		return nil, nil
	}
	t, err := d.use(ctx)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, store.CallTimeout)
	defer cancel()
	opts := options.Find().SetSort(byNumber(1)).SetLimit(int64(limit)).SetBatchSize(int32(min(limit, readBatch)))
	cursor, err := t.entries.Find(ctx, bson.D{where("_id", "$gt", n)}, opts)
	if err != nil {
		return nil, wrap(err)
	}
	defer cursor.Close(ctx)
	entries := []store.Entry{}
	for cursor.Next(ctx) {
		var e store.Entry
		if err := cursor.Decode(&e); err != nil {
			return nil, wrap(err)
		}
		d.known(e.N)
		entries = append(entries, e)
	}
	if len(entries) > 0 {
		return entries, nil
	}
	return entries, wrap(cursor.Err())
}

// Last reads the highest number by the index of _id.
func (d *database) Last(ctx context.Context) (int64, error) {
	t, err := d.use(ctx)
	if err != nil {
		return 0, err
	}
	var e store.Entry
	err = t.entries.FindOne(ctx, bson.D{}, options.FindOne().SetSort(byNumber(-1)).SetProjection(onlyID)).Decode(&e)
	if errors.Is(err, mongo.ErrNoDocuments) {
		return 0, nil
	}
	d.known(e.N)
	return e.N, wrap(err)
}

// DeleteEvents finds events by the index of client ids: these sort by time, and only events have no author.
func (d *database) DeleteEvents(ctx context.Context, n int64, before time.Time) (int, error) {
	return d.deleteEntries(ctx, bson.D{
		{Key: "author", Value: ""}, where("clientId", "$lt", store.NewEventID(before)), where("_id", "$lte", n),
	}, options.Find())
}

// DeleteEntries finds the lowest numbers by the index of _id.
func (d *database) DeleteEntries(ctx context.Context, n int64) (int, error) {
	return d.deleteEntries(ctx, bson.D{where("_id", "$lte", n)}, options.Find().SetSort(byNumber(1)))
}

// deleteEntries deletes at most store.DeleteBatch entries that match the filter. DeleteMany itself has no limit.
func (d *database) deleteEntries(ctx context.Context, filter bson.D, opts *options.FindOptions) (int, error) {
	t, err := d.use(ctx)
	if err != nil {
		return 0, err
	}
	ctx, cancel := context.WithTimeout(ctx, store.CallTimeout)
	defer cancel()
	entries, err := findAll[store.Entry](ctx, t.entries, filter, opts.SetLimit(store.DeleteBatch).SetProjection(onlyID))
	if err != nil || len(entries) == 0 {
		return 0, err
	}
	numbers := make([]int64, len(entries))
	for i, e := range entries {
		numbers[i] = e.N
	}
	res, err := t.entries.DeleteMany(ctx, bson.D{where("_id", "$in", numbers)})
	if err != nil {
		return 0, wrap(err)
	}
	return int(res.DeletedCount), nil
}
