package storetest

import (
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"
	"testing"
	"time"

	"balanza/services/eventlog"
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
	var entries []store.Entry
	for i := range n {
		entries = append(entries, message(ana.ID, fmt.Sprint(i+1)))
	}
	stored, err := s.Append(ctx, entries)
	must(t, err)
	wantEqual(t, "stored", stored, numbered(entries, 1))
	return stored
}

// numbered returns a copy of the entries with the numbers first, first+1 …
func numbered(entries []store.Entry, first int64) []store.Entry {
	entries = append([]store.Entry{}, entries...)
	for i := range entries {
		entries[i].N = first + int64(i)
	}
	return entries
}

// read returns the first limit entries above n. One call of After may return fewer, so it repeats the call.
func read(t *testing.T, s store.Store, n int64, limit int) []store.Entry {
	t.Helper()
	entries := []store.Entry{}
	for {
		more, err := s.After(ctx, n, limit-len(entries))
		must(t, err)
		if len(more) == 0 {
			return entries
		}
		entries = append(entries, more...)
		n = more[len(more)-1].N
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
	stored, err := a.Append(ctx, entries)
	must(t, err)
	want := numbered(entries, 1)
	wantEqual(t, "appended", stored, want)
	more := message(ana.ID, "2")
	stored, err = b.Append(ctx, []store.Entry{more})
	must(t, err)
	want = append(want, numbered([]store.Entry{more}, 4)...)
	wantEqual(t, "appended by another process", stored, want[3:])
	stored, err = b.Append(ctx, nil)
	must(t, err)
	wantEqual(t, "appended nothing", len(stored), 0)
	for _, s := range []store.Store{a, b} {
		wantEqual(t, "log", read(t, s, 0, 100), want)
	}
}

// testRepeats proves that a repeated entry finds what is stored, and that the entries beside it are stored in their order.
func testRepeats(t *testing.T, open func() store.Store) {
	s, other := open(), open()
	old := fill(t, s, 3)
	eva := "eva@example.org"
	changed := message(ana.ID, "2")
	changed.Message.Text = "another text"
	for _, step := range []struct {
		name    string
		entries []store.Entry
		want    []store.Entry // those that were stored before have a number; 0: new
	}{
		{"only a repeat", []store.Entry{changed}, old[1:2]},
		{"all repeated", []store.Entry{message(ana.ID, "3"), message(ana.ID, "1")}, []store.Entry{old[2], old[0]}},
		{"the first", []store.Entry{changed, message(eva, "1")}, []store.Entry{old[1], message(eva, "1")}},
		{"the third", []store.Entry{message(eva, "2"), message(eva, "3"), changed, message(eva, "4")},
			[]store.Entry{message(eva, "2"), message(eva, "3"), old[1], message(eva, "4")}},
		{"another author's client id", []store.Entry{message("leo@example.org", "1")}, []store.Entry{message("leo@example.org", "1")}},
	} {
		last, err := s.Last(ctx)
		must(t, err)
		got, err := other.Append(ctx, step.entries)
		must(t, err)
		for i, e := range got {
			if step.want[i].N == 0 { // a new entry follows all before it
				if e.N <= last {
					t.Errorf("%s: entry %d has number %d, after %d", step.name, i, e.N, last)
				}
				last, step.want[i].N = e.N, e.N
			}
		}
		wantEqual(t, step.name, got, step.want)
	}
	twice, err := s.Append(ctx, []store.Entry{message(eva, "5"), message(eva, "5")})
	must(t, err)
	wantEqual(t, "twice in one batch", twice[0], twice[1])
	Verify(t, s, map[string]int64{key(ana.ID, "2"): 2, key(eva, "5"): twice[0].N})
}

// testAfter tries limits, and the end of the log.
func testAfter(t *testing.T, open func() store.Store) {
	s := open()
	wantEqual(t, "empty log", read(t, s, 0, 10), []store.Entry{})
	want := fill(t, s, 150)
	// The entries wanted after the number after, at most limit, are want[from:to].
	for _, step := range []struct{ after, limit, from, to int }{
		{0, 1, 0, 1}, {0, 150, 0, 150}, {0, 1000, 0, 150}, {5, 16, 5, 21}, {5, 140, 5, 145}, {50, 400, 50, 150},
		{148, 1, 148, 149}, {149, 5, 149, 150}, {150, 5, 150, 150}, {999, 5, 150, 150}, {0, 0, 0, 0},
	} {
		got := read(t, s, int64(step.after), step.limit)
		wantEqual(t, fmt.Sprintf("after %d, at most %d", step.after, step.limit), got, append([]store.Entry{}, want[step.from:step.to]...))
	}
}

// testLast proves that Last counts what is written.
func testLast(t *testing.T, open func() store.Store) {
	s := open()
	for want := range int64(3) {
		got, err := s.Last(ctx)
		must(t, err)
		wantEqual(t, "last", got, want)
		_, err = s.Append(ctx, []store.Entry{message(ana.ID, fmt.Sprint(want))})
		must(t, err)
	}
}

// testFill proves that a filler takes only free numbers, and that a writer whose numbers were filled takes new ones.
func testFill(t *testing.T, open func() store.Store) {
	a, b := open(), open()
	want := fill(t, a, 3)
	must(t, b.Fill(ctx, 2, 6))
	must(t, a.Fill(ctx, 5, 7))
	log := read(t, a, 0, 100)
	wantEqual(t, "entries before the fillers", log[:3], want)
	wantEqual(t, "numbers in all", len(log), 7)
	for i, e := range log[3:] {
		if e.N != int64(i)+4 || e.Kind != store.Filler {
			t.Errorf("filler %d is %+v", i+4, e)
		}
	}
	// The numbers that follow the three messages are taken.
	late := []store.Entry{message(ana.ID, "late 1"), message(ana.ID, "late 2"), message(ana.ID, "late 3")}
	stored, err := b.Append(ctx, late)
	must(t, err)
	if first := stored[0].N; first <= 7 || !slices.IsSortedFunc(stored, func(x, y store.Entry) int { return int(x.N - y.N) }) {
		t.Errorf("appended after the fillers: %+v", stored)
	}
	Verify(t, a)
}

// testDelete proves which entries the two deletions take, and that numbers are not given out again.
func testDelete(t *testing.T, open func() store.Store) {
	s := open()
	event := func(at time.Time) store.Entry {
		return store.Entry{Kind: store.ProductChanged, Subject: "p", ClientID: store.NewEventID(at)}
	}
	_, err := s.Append(ctx, []store.Entry{
		message(ana.ID, "1"), event(now.Add(-time.Hour)), event(now.Add(time.Hour)), event(now.Add(-time.Minute)), message(ana.ID, "2"),
	})
	must(t, err)
	must(t, s.Fill(ctx, 6, 6))
	wantNumbers := func(description string, deleted int, err error, wantDeleted int, want ...int64) {
		t.Helper()
		must(t, err)
		wantEqual(t, description+": deleted", deleted, wantDeleted)
		var numbers []int64
		for _, e := range read(t, s, 0, 100) {
			numbers = append(numbers, e.N)
		}
		wantEqual(t, description+": left", numbers, want)
	}
	n, err := s.DeleteEvents(ctx, 3, now)
	wantNumbers("old events up to 3", n, err, 1, 1, 3, 4, 5, 6)
	n, err = s.DeleteEvents(ctx, 6, now)
	wantNumbers("old events", n, err, 1, 1, 3, 5, 6)
	n, err = s.DeleteEvents(ctx, 6, now)
	wantNumbers("again", n, err, 0, 1, 3, 5, 6)
	n, err = s.DeleteEntries(ctx, 3)
	wantNumbers("entries up to 3", n, err, 2, 5, 6)
	stored, err := s.Append(ctx, []store.Entry{message(ana.ID, "3")})
	must(t, err)
	if stored[0].N <= 6 {
		t.Errorf("number %d was given out again", stored[0].N)
	}
}

// testPrune proves that pruning deletes old entries, keeps the last numbers, and that a follower then still finds every
// message that was not deleted.
func testPrune(t *testing.T, open func() store.Store) {
	s := open()
	const total = 2600
	var entries []store.Entry
	for i := range total {
		e := message(ana.ID, fmt.Sprint(i+1))
		e.Message.Time = now.Add(time.Duration(i) * time.Minute)
		if i%2 == 1 {
			e = store.Entry{Kind: store.ProductChanged, Subject: "p", ClientID: store.NewEventID(now.Add(time.Duration(i) * time.Minute))}
		}
		entries = append(entries, e)
	}
	for batch := range slices.Chunk(entries, 500) {
		_, err := s.Append(ctx, batch)
		must(t, err)
	}
	// An age of the messages of which the first 200 numbers are older; the events are older than a day up to number 1560.
	at := now.Add(3000 * time.Minute)
	deleted, err := eventlog.Prune(ctx, s, at, 2800*time.Minute)
	must(t, err)
	wantEqual(t, "deleted", deleted, 199/2+1+1560/2)
	again, err := eventlog.Prune(ctx, s, at, 2800*time.Minute)
	must(t, err)
	wantEqual(t, "deleted by a second call", again, 0)
	must(t, func() error { _, err := eventlog.Prune(ctx, s, at.Add(10000*time.Hour), time.Hour); return err }())
	left := read(t, s, 0, total)
	wantEqual(t, "numbers left by a call long after", len(left), 1000)
	wantEqual(t, "the first of them", left[0].N, int64(total-999))
}

// testConcurrentAppends makes eight processes append without a Log, whose single goroutine would hide conflicts.
func testConcurrentAppends(t *testing.T, open func() store.Store) {
	const each = 16 // entries of each process
	stores := make([]store.Store, 8)
	for i := range stores {
		stores[i] = open()
	}
	acked := make([]map[string]int64, len(stores))
	must(t, errors.Join(concurrently(len(stores), func(i int) error {
		acked[i] = map[string]int64{}
		author := fmt.Sprint("a", i)
		for len(acked[i]) < each {
			pair := []store.Entry{message(author, fmt.Sprint(len(acked[i]))), message(author, fmt.Sprint(len(acked[i])+1))}
			stored, err := stores[i].Append(ctx, pair)
			if errors.Is(err, store.ErrUnavailable) {
				continue
			}
			if err != nil {
				return err
			}
			for _, e := range stored {
				acked[i][key(e.Author, e.ClientID)] = e.N
			}
		}
		return nil
	})...))
	wantEqual(t, "messages", len(Verify(t, stores[0], acked...)), each*len(stores))
}

// testProcesses proves that records are replaced, that other processes read them as they were written, and that they are kept
// for a while after they have expired.
func testProcesses(t *testing.T, open func() store.Store) {
	a, b := open(), open()
	full := store.Process{
		ID: "1", Service: "replica", Server: "h:8080", Mode: "CLUSTER", Host: "h", Machine: "m", Worker: 2, PID: 7, Version: "v1",
		State: store.Draining, Cause: "Ñandú's reload", Started: now.Add(-time.Hour), Seen: now, Interval: 5 * time.Second,
		Expires: now.Add(time.Minute), Restarts: 3, Predecessor: store.Predecessor{PID: 6, Cause: "signal: killed"},
		Requests: 1 << 40, Errors: 4, Rate: 1.25, P50: time.Millisecond, P99: time.Second, Draws: 5, Connections: 6, Websockets: 8,
		Panels: 2, Memory: 9, CPU: 0.1, History: []byte{0, 255, 1},
	}
	small := store.Process{ID: "2", Server: "cluster", Panels: 1, Expires: now.Add(time.Second)}
	ended := store.Process{ID: "3", Server: "fork", State: store.Ended, Panels: 4, Expires: now}
	first := full
	first.Panels, first.Expires = 0, now.Add(-time.Second)
	for _, p := range []store.Process{first, small, ended, full} {
		must(t, a.PutProcess(ctx, p))
	}
	for _, c := range []struct {
		after        time.Duration
		live, panels int
		ids          []string
	}{
		{-time.Millisecond, 3, 7, []string{"1", "2", "3"}},
		{0, 2, 3, []string{"1", "2"}},
		{time.Second, 1, 2, []string{"1"}},
		{time.Minute, 0, 0, nil},
	} {
		live, panels, err := b.CountProcesses(ctx, now.Add(c.after))
		must(t, err)
		wantEqual(t, fmt.Sprint("live processes and panels after ", c.after), []int{live, panels}, []int{c.live, c.panels})
		records, err := b.Processes(ctx, now.Add(c.after))
		must(t, err)
		var ids []string
		for _, p := range records {
			ids = append(ids, p.ID)
			if p.ID == full.ID {
				wantEqual(t, "record", p, full)
			}
		}
		slices.Sort(ids)
		wantEqual(t, fmt.Sprint("records after ", c.after), ids, c.ids)
	}
	for after, want := range map[time.Duration]int{0: 0, store.EndedKept: 1} {
		swept, err := b.Sweep(ctx, now.Add(after))
		must(t, err)
		wantEqual(t, fmt.Sprint("swept after ", after), swept, want)
	}
}

// testInvalidProcesses proves that no record is stored that would make the list of all large or unreadable.
func testInvalidProcesses(t *testing.T, open func() store.Store) {
	s := open()
	long := strings.Repeat("x", store.MaxProcessText+1)
	for name, p := range map[string]store.Process{
		"host":        {Host: long},
		"version":     {Version: long},
		"cause":       {Cause: long},
		"predecessor": {Predecessor: store.Predecessor{Cause: long}},
		"service":     {Service: "\xff"},
		"history":     {History: make([]byte, store.MaxHistory+1)},
		"rate":        {Rate: math.NaN()},
		"CPU":         {CPU: math.Inf(1)},
	} {
		p.ID, p.Expires = name, now.Add(time.Minute)
		wantError(t, "an invalid "+name, s.PutProcess(ctx, p), store.ErrInvalid)
	}
	p := store.Process{ID: long[1:], Host: long[1:], History: make([]byte, store.MaxHistory), Expires: now.Add(time.Minute)}
	must(t, s.PutProcess(ctx, p))
	records, err := s.Processes(ctx, now)
	must(t, err)
	wantEqual(t, "records", records, []store.Process{p})
}

// testNow proves that the store's clock goes. The server of the tests runs on this machine or is set by the same time
// service, so its time is about that of this process.
func testNow(t *testing.T, open func() store.Store) {
	s := open()
	first, err := s.Now(ctx)
	must(t, err)
	if skew := time.Since(first).Abs(); skew > time.Minute {
		t.Errorf("the store's clock differs from this machine's by %v", skew)
	}
	time.Sleep(20 * time.Millisecond)
	second, err := s.Now(ctx)
	must(t, err)
	if passed := second.Sub(first); passed <= 0 {
		t.Errorf("%v passed on the store's clock in 20 ms", passed)
	}
}

// key identifies an entry in the maps of Write and Verify.
func key(author, clientID string) string { return author + " " + clientID }

// Verify fails the test unless a process that follows the log gets it without a gap, with no entry twice, and with every
// acknowledged entry under its acknowledged number. It returns the entries without fillers. The maps are those that Write
// returns.
func Verify(t *testing.T, s store.Store, acked ...map[string]int64) (entries []store.Entry) {
	t.Helper()
	last, err := s.Last(ctx)
	must(t, err)
	log, stop := startLog(s)
	defer stop()
	all := listen(log, 0).wait(int(last))
	stored := map[string]int64{}
	for i, e := range all {
		if e.N != int64(i)+1 {
			t.Fatalf("entry %d follows entry %d", e.N, i)
		}
		// An entry stored twice is a message that every page shows twice.
		if n, twice := stored[key(e.Author, e.ClientID)]; twice {
			t.Errorf("%s %s is stored as %d and as %d", e.Author, e.ClientID, n, e.N)
		}
		stored[key(e.Author, e.ClientID)] = e.N
		if e.Kind != store.Filler {
			entries = append(entries, e)
		}
	}
	if int64(len(all)) < last {
		t.Errorf("a follower got %d of %d entries", len(all), last)
	}
	for _, numbers := range acked {
		for k, n := range numbers {
			if stored[k] != n {
				t.Errorf("%s was acknowledged as %d and is stored as %d", k, n, stored[k])
			}
		}
	}
	return entries
}
