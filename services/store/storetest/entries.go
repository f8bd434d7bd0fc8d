package storetest

import (
	"errors"
	"fmt"
	"testing"

	"balanza/services/store"
)

// message returns the entry of a message of that author with that client id.
func message(author, clientID string) store.Entry {
	profile := ana
	profile.ID = author
	return store.Entry{
		Kind: store.MessagePosted, Author: author, ClientID: clientID,
		Message: &store.Message{Author: profile, Text: "hola " + clientID, Time: now},
	}
}

// fill appends n messages of ana, with the client ids 1 to n, to an empty log and returns them with their numbers.
func fill(t *testing.T, s store.Store, n int) []store.Entry {
	t.Helper()
	entries := make([]store.Entry, n)
	for i := range entries {
		entries[i] = message(ana.ID, fmt.Sprint(i+1))
	}
	got, err := s.Append(ctx, 0, entries)
	must(t, err)
	if got != n {
		t.Fatalf("%d of %d entries appended", got, n)
	}
	for i := range entries {
		entries[i].N = int64(i) + 1
	}
	return entries
}

// read returns the first limit entries above n. One call of After may return fewer, so it repeats the call.
func read(t *testing.T, s store.Store, n int64, limit int) []store.Entry {
	t.Helper()
	entries := []store.Entry{}
	for {
		more, err := s.After(ctx, n+int64(len(entries)), limit-len(entries))
		must(t, err)
		if len(more) == 0 {
			return entries
		}
		entries = append(entries, more...)
	}
}

// testAppend proves that each process reads what all have appended, with its number and every field.
func testAppend(t *testing.T, open func() store.Store) {
	a, b := open(), open()
	entries := []store.Entry{
		message(ana.ID, "1"),
		{Kind: store.ProductChanged, Subject: "p-1", ClientID: "r1"},
		{Kind: store.LoggedOut, Subject: "s-1", ClientID: "r2"},
	}
	n, err := a.Append(ctx, 0, entries)
	must(t, err)
	wantEqual(t, "appended", n, len(entries))
	more := message(ana.ID, "2")
	n, err = b.Append(ctx, 3, []store.Entry{more})
	must(t, err)
	wantEqual(t, "appended by another process", n, 1)
	// An empty batch is no error, though no entry can tell whether 4 is the last number.
	n, err = b.Append(ctx, 4, nil)
	must(t, err)
	wantEqual(t, "appended nothing", n, 0)

	want := append(entries, more)
	for i := range want {
		want[i].N = int64(i) + 1
	}
	for _, s := range []store.Store{a, b} {
		wantEqual(t, "log", read(t, s, 0, 100), want)
	}
	got, err := a.EntryByClientID(ctx, ana.ID, "2")
	must(t, err)
	wantEqual(t, "entry by client id", got, want[3])
	_, err = a.EntryByClientID(ctx, "eva@example.org", "2")
	wantError(t, "entry of another author", err, store.ErrNotFound)
}

// testAppendConflicts proves that Append writes the entries before a conflict and none after it, whatever the conflict is.
func testAppendConflicts(t *testing.T, open func() store.Store) {
	s := open()
	fill(t, s, 3)
	// The steps build on one another: each that writes moves the last number.
	eva := "eva@example.org"
	for _, step := range []struct {
		name    string
		last    int64
		entries []store.Entry
		want    int
	}{
		{"the number exists", 1, []store.Entry{message(eva, "1")}, 0},
		{"all numbers exist", 0, []store.Entry{message(ana.ID, "1"), message(ana.ID, "2")}, 0},
		{"last does not exist", 5, []store.Entry{message(eva, "1")}, 0},
		{"the first entry exists", 3, []store.Entry{message(ana.ID, "2"), message(eva, "1")}, 0},
		{"the third entry exists", 3, []store.Entry{message(eva, "1"), message(eva, "2"), message(ana.ID, "2"), message(eva, "3")}, 2},
		{"twice in one batch", 5, []store.Entry{message(eva, "4"), message(eva, "4")}, 1},
		{"another author's client id", 6, []store.Entry{message("leo@example.org", "1")}, 1},
	} {
		got, err := s.Append(ctx, step.last, step.entries)
		must(t, err)
		wantEqual(t, step.name, got, step.want)
	}
	Verify(t, s, map[string]int64{
		key(ana.ID, "1"): 1, key(ana.ID, "2"): 2, key(ana.ID, "3"): 3,
		key(eva, "1"): 4, key(eva, "2"): 5, key(eva, "4"): 6, key("leo@example.org", "1"): 7,
	})
}

// testAfter tries the limits around which an implementation may change from look-ups to ranges, and the end of the log.
func testAfter(t *testing.T, open func() store.Store) {
	s := open()
	wantEqual(t, "empty log", read(t, s, 0, 10), []store.Entry{})
	want := fill(t, s, 60)
	// The entries wanted after the number after, at most limit, are want[from:to].
	for _, step := range []struct{ after, limit, from, to int }{
		{0, 1, 0, 1}, {0, 10, 0, 10}, {0, 60, 0, 60}, {0, 1000, 0, 60}, {5, 16, 5, 21}, {5, 17, 5, 22}, {5, 40, 5, 45},
		{50, 40, 50, 60}, {58, 1, 58, 59}, {59, 5, 59, 60}, {60, 5, 60, 60}, {99, 5, 60, 60}, {0, 0, 0, 0},
	} {
		got := read(t, s, int64(step.after), step.limit)
		wantEqual(t, fmt.Sprintf("after %d, at most %d", step.after, step.limit), got, append([]store.Entry{}, want[step.from:step.to]...))
	}
}

// testLast asks after each append, since an implementation may search the highest number.
func testLast(t *testing.T, open func() store.Store) {
	s := open()
	// Past 16, the number of look-ups that mongostore makes at the same time.
	for want := range int64(18) {
		got, err := s.Last(ctx)
		must(t, err)
		wantEqual(t, "last", got, want)
		_, err = s.Append(ctx, want, []store.Entry{message(ana.ID, fmt.Sprint(want))})
		must(t, err)
	}
}

// testConcurrentAppends makes eight processes compete for every number without a Log, whose backoff would hide conflicts.
func testConcurrentAppends(t *testing.T, open func() store.Store) {
	const each = 15 // entries of each process
	stores := make([]store.Store, 8)
	for i := range stores {
		stores[i] = open()
	}
	acked := make([]map[string]int64, len(stores))
	must(t, errors.Join(concurrently(len(stores), func(i int) error {
		acked[i] = map[string]int64{}
		author, last := fmt.Sprint("a", i), int64(0)
		for len(acked[i]) < each {
			// Two entries, so that a batch can also be interrupted in its middle.
			pair := []store.Entry{message(author, fmt.Sprint(len(acked[i]))), message(author, fmt.Sprint(len(acked[i])+1))}
			n, err := stores[i].Append(ctx, last, pair[:min(2, each-len(acked[i]))])
			if err != nil && !errors.Is(err, store.ErrUnavailable) {
				return err
			}
			for _, e := range pair[:n] {
				last++
				acked[i][key(e.Author, e.ClientID)] = last
			}
			// Whatever the result was, the next try starts at the end of the log that this process can read.
			next, err := stores[i].After(ctx, last, 100)
			if err != nil && !errors.Is(err, store.ErrUnavailable) {
				return err
			}
			for _, e := range next {
				last++
				if e.Author == author { // written by a call that returned ErrUnavailable
					acked[i][key(e.Author, e.ClientID)] = e.N
				}
			}
		}
		return nil
	})...))
	Verify(t, stores[0], acked...)
	n, err := stores[0].Last(ctx)
	must(t, err)
	wantEqual(t, "entries", n, int64(each*len(stores)))
}

// key identifies an entry in the maps of Write and Verify.
func key(author, clientID string) string { return author + " " + clientID }

// Verify fails the test unless the log is numbered without a gap, contains no entry twice, and contains every acknowledged
// entry under its acknowledged number. The maps are those that Write returns.
func Verify(t *testing.T, s store.Store, acked ...map[string]int64) {
	t.Helper()
	stored := map[string]int64{}
	for last := int64(0); ; {
		entries, err := s.After(ctx, last, 500)
		must(t, err)
		if len(entries) == 0 {
			break
		}
		for _, e := range entries {
			last++
			if e.N != last {
				t.Fatalf("entry %d follows entry %d", e.N, last-1)
			}
			// An entry stored twice is a message that every page shows twice.
			if n, twice := stored[key(e.Author, e.ClientID)]; twice {
				t.Errorf("%s %s is stored as %d and as %d", e.Author, e.ClientID, n, e.N)
			}
			stored[key(e.Author, e.ClientID)] = e.N
		}
	}
	for _, numbers := range acked {
		for k, n := range numbers {
			if stored[k] != n {
				t.Errorf("%s was acknowledged as %d and is stored as %d", k, n, stored[k])
			}
		}
	}
}
