package storetest

import (
	"errors"
	"fmt"
	"testing"

	"balanza/services/store"
)

// said is a message of that author with that client id.
func said(author, clientID string) store.Entry {
	who := ana
	who.ID = author
	return store.Entry{
		Kind: store.MessageSaid, Author: author, ClientID: clientID,
		Message: &store.Message{Author: who, Text: "hola " + clientID, Time: now},
	}
}

// fill appends n messages of ana to an empty log.
func fill(t *testing.T, s store.Store, n int) []store.Entry {
	t.Helper()
	entries := make([]store.Entry, n)
	for i := range entries {
		entries[i] = said(ana.ID, fmt.Sprint(i+1))
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

// read returns the first limit entries above n, however many calls that takes.
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

func testAppend(t *testing.T, open func() store.Store) {
	a, b := open(), open()
	entries := []store.Entry{
		said(ana.ID, "1"),
		{Kind: store.ProductChanged, Subject: "p-1", ClientID: "r1"},
		{Kind: store.LoggedOut, Subject: "s-1", ClientID: "r2"},
	}
	n, err := a.Append(ctx, 0, entries)
	must(t, err)
	wantEqual(t, "appended", n, len(entries))
	more := said(ana.ID, "2")
	n, err = b.Append(ctx, 3, []store.Entry{more})
	must(t, err)
	wantEqual(t, "appended by another holder", n, 1)
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
	got, err := a.Said(ctx, ana.ID, "2")
	must(t, err)
	wantEqual(t, "said", got, want[3])
	_, err = a.Said(ctx, "eva@example.org", "2")
	wantError(t, "not said", err, store.ErrNotFound)
}

func testAppendStops(t *testing.T, open func() store.Store) {
	s := open()
	fill(t, s, 3)
	eva := "eva@example.org"
	for _, step := range []struct {
		what    string
		last    int64
		entries []store.Entry
		want    int
	}{
		{"the number is taken", 1, []store.Entry{said(eva, "1")}, 0},
		{"all is taken", 0, []store.Entry{said(ana.ID, "1"), said(ana.ID, "2")}, 0},
		{"there is no such last", 5, []store.Entry{said(eva, "1")}, 0},
		{"the first is there already", 3, []store.Entry{said(ana.ID, "2"), said(eva, "1")}, 0},
		{"the third is there already", 3, []store.Entry{said(eva, "1"), said(eva, "2"), said(ana.ID, "2"), said(eva, "3")}, 2},
		{"twice in one batch", 5, []store.Entry{said(eva, "4"), said(eva, "4")}, 1},
		{"another's client id is free", 6, []store.Entry{said("leo@example.org", "1")}, 1},
	} {
		got, err := s.Append(ctx, step.last, step.entries)
		must(t, err)
		wantEqual(t, step.what, got, step.want)
	}
	Verify(t, s, map[string]int64{
		key(ana.ID, "1"): 1, key(ana.ID, "2"): 2, key(ana.ID, "3"): 3,
		key(eva, "1"): 4, key(eva, "2"): 5, key(eva, "4"): 6, key("leo@example.org", "1"): 7,
	})
}

func testAfter(t *testing.T, open func() store.Store) {
	s := open()
	wantEqual(t, "empty log", read(t, s, 0, 10), []store.Entry{})
	want := fill(t, s, 60)
	for _, step := range []struct{ after, limit, from, to int }{
		{0, 1, 0, 1}, {0, 10, 0, 10}, {0, 60, 0, 60}, {0, 1000, 0, 60}, {5, 16, 5, 21}, {5, 17, 5, 22}, {5, 40, 5, 45},
		{50, 40, 50, 60}, {58, 1, 58, 59}, {59, 5, 59, 60}, {60, 5, 60, 60}, {99, 5, 60, 60}, {0, 0, 0, 0},
	} {
		got := read(t, s, int64(step.after), step.limit)
		wantEqual(t, fmt.Sprintf("after %d, at most %d", step.after, step.limit), got, append([]store.Entry{}, want[step.from:step.to]...))
	}
}

func testLast(t *testing.T, open func() store.Store) {
	s := open()
	for want := range int64(18) {
		got, err := s.Last(ctx)
		must(t, err)
		wantEqual(t, "last", got, want)
		_, err = s.Append(ctx, want, []store.Entry{said(ana.ID, fmt.Sprint(want))})
		must(t, err)
	}
}

// testAppendAtOnce has holders compete for every number, with nothing of the Log between them and the store.
func testAppendAtOnce(t *testing.T, open func() store.Store) {
	const each = 15
	stores := make([]store.Store, 8)
	for i := range stores {
		stores[i] = open()
	}
	acked := make([]map[string]int64, len(stores))
	must(t, errors.Join(atOnce(len(stores), func(i int) error {
		acked[i] = map[string]int64{}
		author, last := fmt.Sprint("a", i), int64(0)
		for len(acked[i]) < each {
			pair := []store.Entry{said(author, fmt.Sprint(len(acked[i]))), said(author, fmt.Sprint(len(acked[i])+1))}
			n, err := stores[i].Append(ctx, last, pair[:min(2, each-len(acked[i]))])
			if err != nil && !errors.Is(err, store.ErrUnavailable) {
				return err
			}
			for _, e := range pair[:n] {
				last++
				acked[i][key(e.Author, e.ClientID)] = last
			}
			news, err := stores[i].After(ctx, last, 100)
			if err != nil && !errors.Is(err, store.ErrUnavailable) {
				return err
			}
			for _, e := range news {
				last++
				if e.Author == author { // written by a call that seemed to fail
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

func key(author, clientID string) string { return author + " " + clientID }

// Verify fails the test unless the log is numbered without a gap, holds nothing twice, and holds all that was acknowledged
// under the number that was told. The maps are as Write returns them.
func Verify(t *testing.T, s store.Store, acked ...map[string]int64) {
	t.Helper()
	there := map[string]int64{}
	for last := int64(0); ; {
		entries, err := s.After(ctx, last, 500)
		must(t, err)
		if len(entries) == 0 {
			break
		}
		for _, e := range entries {
			last++
			if e.N != last {
				t.Fatalf("entry %d where %d should be", e.N, last)
			}
			if n, twice := there[key(e.Author, e.ClientID)]; twice {
				t.Errorf("%s %s is there as %d and as %d", e.Author, e.ClientID, n, e.N)
			}
			there[key(e.Author, e.ClientID)] = e.N
		}
	}
	for _, some := range acked {
		for k, n := range some {
			if there[k] != n {
				t.Errorf("%s was acknowledged as %d and is there as %d", k, n, there[k])
			}
		}
	}
}
