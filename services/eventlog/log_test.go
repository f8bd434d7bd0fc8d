package eventlog

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"reflect"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"balanza/services/store"
)

// memoryStore implements only the log of a Store, in memory. An entry of number 0 is a hole.
type memoryStore struct {
	store.Store
	mu        sync.Mutex
	entries   []store.Entry // entries[i] has the number i+1
	err       error         // returned by every call
	reads     int           // calls of After
	appends   int           // calls of Append
	processes int           // that follow the log; 0 counts as one
}

func (m *memoryStore) Append(_ context.Context, entries []store.Entry) ([]store.Entry, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.appends++
	if m.err != nil {
		return nil, m.err
	}
	stored := slices.Clone(entries)
	for i, e := range entries {
		if known := slices.IndexFunc(m.entries, func(o store.Entry) bool { return o.N > 0 && o.ID() == e.ID() }); known >= 0 {
			stored[i] = m.entries[known]
			continue
		}
		stored[i].N = int64(len(m.entries)) + 1
		m.entries = append(m.entries, stored[i])
	}
	return stored, nil
}

func (m *memoryStore) After(_ context.Context, n int64, limit int) ([]store.Entry, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.reads++
	if m.err != nil {
		return nil, m.err
	}
	rest := slices.Clone(m.entries[min(int(n), len(m.entries)):])
	rest = slices.DeleteFunc(rest, func(e store.Entry) bool { return e.N == 0 })
	// Fewer than limit, as the contract allows.
	return rest[:min(limit, len(rest), 77)], nil
}

func (m *memoryStore) Fill(_ context.Context, first, last int64) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	for n := first; n <= last; n++ {
		if m.entries[n-1].N == 0 {
			m.entries[n-1] = store.Entry{N: n, Kind: store.Filler, ClientID: fmt.Sprint("filler", n)}
		}
	}
	return m.err
}

func (m *memoryStore) Last(context.Context) (int64, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return int64(len(m.entries)), m.err
}

func (m *memoryStore) Now(context.Context) (time.Time, error) { return time.Now(), nil }

func (m *memoryStore) set(f func()) {
	m.mu.Lock()
	defer m.mu.Unlock()
	f()
}

func (m *memoryStore) readCount() int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.reads
}

// write appends entries as another process does.
func (m *memoryStore) write(clientIDs ...string) {
	m.set(func() {
		for _, id := range clientIDs {
			m.entries = append(m.entries, store.Entry{N: int64(len(m.entries)) + 1, Kind: store.LoggedOut, ClientID: id})
		}
	})
}

func ids(entries []store.Entry) []string {
	var ids []string
	for _, e := range entries {
		ids = append(ids, fmt.Sprintf("%d %s", e.N, e.ClientID))
	}
	return ids
}

// withLog runs a test with simulated time, with the log of m running until the test ends.
func withLog(t *testing.T, m *memoryStore, test func(t *testing.T, l *Log)) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		l := New(m, store.NewClock(m, slog.New(slog.DiscardHandler)), func() int { return m.processes })
		done := make(chan error)
		go func() { done <- l.Run(ctx) }()
		test(t, l)
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
		if _, err := l.Append(context.Background(), store.Entry{Kind: store.LoggedOut}); !errors.Is(err, store.ErrUnavailable) {
			t.Errorf("append to a log that has ended: %v", err)
		}
	})
}

func withTimeout(t *testing.T, d time.Duration) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), d)
	t.Cleanup(cancel)
	return ctx
}

func TestPollInterval(t *testing.T) {
	m := &memoryStore{}
	withLog(t, m, func(t *testing.T, l *Log) {
		readsIn := func(d time.Duration) int {
			m.set(func() { m.reads = 0 })
			time.Sleep(d)
			synctest.Wait()
			m.mu.Lock()
			defer m.mu.Unlock()
			return m.reads
		}
		time.Sleep(time.Millisecond)
		for _, step := range []struct {
			name   string
			action func()
			want   int // reads in the next 2 s
		}{
			{"no page is open", func() {}, 2},
			{"a page opens", func() { l.AddPages(1) }, 40},
			{"another process appends an entry", func() { m.write("a") }, 195},
			{"no entry arrives for a while", func() { time.Sleep(activeFor) }, 40},
			{"the page closes", func() { l.AddPages(-1) }, 2},
		} {
			step.action()
			if got := readsIn(2 * time.Second); got < step.want-3 || got > step.want+6 {
				t.Errorf("%s: %d reads in 2 s, want about %d", step.name, got, step.want)
			}
		}
	})
}

func TestAppendEndsWithItsContext(t *testing.T) {
	m := &memoryStore{err: fmt.Errorf("%w: down", store.ErrUnavailable)}
	withLog(t, m, func(t *testing.T, l *Log) {
		_, err := l.Append(withTimeout(t, time.Second), store.Entry{Kind: store.LoggedOut, ClientID: "abandoned"})
		if !errors.Is(err, store.ErrUnavailable) || !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("append to a store that is down: %v", err)
		}
		time.AfterFunc(2*time.Second, func() { m.set(func() { m.err = nil }) })
		e, err := l.Append(withTimeout(t, 10*time.Second), store.Entry{Kind: store.LoggedOut, ClientID: "waits"})
		if err != nil || e.N != 1 {
			t.Errorf("append to a store that recovers: %+v, %v", e, err)
		}
	})
}

func TestAppendPermanentError(t *testing.T) {
	broken := errors.New("broken")
	m := &memoryStore{}
	withLog(t, m, func(t *testing.T, l *Log) {
		synctest.Wait()
		m.set(func() { m.err = broken })
		if _, err := l.Append(withTimeout(t, time.Minute), store.Entry{Kind: store.LoggedOut}); !errors.Is(err, broken) {
			t.Errorf("error %v, want %v", err, broken)
		}
		if _, err := l.Append(withTimeout(t, time.Minute), store.Entry{Kind: store.MessagePosted}); !errors.Is(err, store.ErrInvalid) {
			t.Errorf("append of a message entry without a message: %v", err)
		}
		m.set(func() { m.err = nil })
		if e, err := l.Append(withTimeout(t, time.Minute), store.Entry{Kind: store.LoggedOut}); err != nil || e.N != 1 {
			t.Errorf("append after the error is gone: %+v, %v", e, err)
		}
	})
}

func TestAppendBatches(t *testing.T) {
	m := &memoryStore{err: fmt.Errorf("%w: down", store.ErrUnavailable)}
	withLog(t, m, func(t *testing.T, l *Log) {
		const n = 300
		numbers := make(chan int64, n)
		for i := range n {
			go func() {
				// Two goroutines append each id at the same time.
				e, err := l.Append(withTimeout(t, time.Minute), store.Entry{Kind: store.LoggedOut, ClientID: fmt.Sprint("c", i/2)})
				if err != nil {
					t.Error(err)
				}
				numbers <- e.N
			}()
		}
		time.Sleep(time.Millisecond)
		m.set(func() { m.err, m.appends = nil, 0 })
		times := map[int64]int{}
		for range n {
			times[<-numbers]++
		}
		for number, count := range times {
			if count != 2 || number < 1 || number > n/2 {
				t.Errorf("number %d was returned %d times", number, count)
			}
		}
		if m.appends != 1 {
			t.Errorf("%d batches for the entries that queued up while the store was down", m.appends)
		}
	})
}

func TestSubscribe(t *testing.T) {
	m := &memoryStore{}
	for i := range 2500 {
		m.write(fmt.Sprint("c", i))
	}
	withLog(t, m, func(t *testing.T, l *Log) {
		type subscription struct {
			after, first int64
			got          []store.Entry
		}
		subs := []*subscription{{after: 0, first: 1}, {after: 700, first: 701}, {after: 2499, first: 2500}, {after: 2502, first: 2503}}
		for _, s := range subs {
			l.Subscribe(s.after, func(entries []store.Entry) { s.got = append(s.got, entries...) })
		}
		var cancelled []store.Entry
		cancel := l.Subscribe(2500, func(entries []store.Entry) { cancelled = append(cancelled, entries...) })
		synctest.Wait()
		l.AddPages(1)
		m.write("x1", "x2")
		time.Sleep(time.Second)
		synctest.Wait()
		cancel()
		for i := range 2000 { // more than the log keeps in memory
			m.write(fmt.Sprint("d", i))
		}
		time.Sleep(5 * time.Second)
		synctest.Wait()
		for _, s := range subs {
			if !reflect.DeepEqual(s.got, m.entries[s.first-1:]) {
				t.Errorf("after %d: %d entries, want %d", s.after, len(s.got), len(m.entries)-int(s.first)+1)
			}
		}
		if want := []string{"2501 x1", "2502 x2"}; !reflect.DeepEqual(ids(cancelled), want) {
			t.Errorf("cancelled: got %v, want %v", ids(cancelled), want)
		}
		recent := l.Recent()
		if len(recent) < minRecent || len(recent) > 2*minRecent || recent[len(recent)-1].N != 4502 {
			t.Errorf("%d recent entries up to %d", len(recent), recent[len(recent)-1].N)
		}
		for _, n := range []int64{0, 10, 4000, 4501, 4502, 9999} {
			want, _ := m.After(t.Context(), n, 7)
			got, err := l.After(t.Context(), n, 7)
			if err != nil || len(got) != len(want) || (len(got) > 0 && !reflect.DeepEqual(got, want)) {
				t.Errorf("after %d: %v, %v, want %v", n, ids(got), err, ids(want))
			}
		}
	})
}

// A database server that is killed may lose entries that the log has read, if they were not acknowledged. A log that asks
// nothing while the server restarts meets no error.
func TestServerLosesEntries(t *testing.T) {
	for _, test := range []struct {
		name    string
		keep    int
		noticed bool
	}{{"the last", 3, true}, {"all", 0, true}, {"the last, unnoticed", 3, false}, {"all, unnoticed", 0, false}} {
		t.Run(test.name, func(t *testing.T) {
			m := &memoryStore{}
			m.write("a", "b", "c", "d")
			withLog(t, m, func(t *testing.T, l *Log) {
				var got []string
				l.AddPages(1)
				l.Subscribe(2, func(entries []store.Entry) { got = append(got, ids(entries)...) })
				time.Sleep(time.Second)
				if test.noticed {
					m.set(func() { m.err = fmt.Errorf("%w: killed", store.ErrUnavailable) })
					time.Sleep(time.Second)
				}
				m.set(func() {
					m.err, m.entries = nil, append(m.entries[:test.keep:test.keep], store.Entry{
						N: int64(test.keep) + 1, Kind: store.LoggedOut, ClientID: "e",
					})
				})
				time.Sleep(2 * time.Second)
				e, err := l.Append(withTimeout(t, time.Minute), store.Entry{Kind: store.LoggedOut, ClientID: "f"})
				if err != nil || e.N != int64(test.keep)+2 {
					t.Errorf("append: %+v, %v", e, err)
				}
				synctest.Wait()
				want := []string{"3 c", "4 d", fmt.Sprint(test.keep+1, " e"), fmt.Sprint(test.keep+2, " f")}
				if !reflect.DeepEqual(got, want) {
					t.Errorf("got %v, want %v", got, want)
				}
				if last := l.Recent(); last[len(last)-1].N != int64(len(m.entries)) {
					t.Errorf("recent %v", ids(last))
				}
			})
		})
	}
}

// A process that died between the reservation of a number and its insert leaves a hole.
func TestHole(t *testing.T) {
	for _, pages := range []int{0, 1} {
		m := &memoryStore{}
		m.write("a", "b")
		withLog(t, m, func(t *testing.T, l *Log) {
			l.AddPages(pages)
			var got []string
			l.Subscribe(2, func(entries []store.Entry) { got = append(got, ids(entries)...) })
			time.Sleep(3 * time.Second)
			m.set(func() { m.entries = append(m.entries, store.Entry{}, store.Entry{}) })
			began := time.Now()
			if _, err := l.Append(withTimeout(t, time.Minute), store.Entry{Kind: store.LoggedOut, ClientID: "c"}); err != nil {
				t.Fatal(err)
			}
			if waited := time.Since(began); waited > 0 {
				t.Errorf("the append waited %v for the hole", waited)
			}
			reads := m.readCount()
			time.Sleep(900 * time.Millisecond)
			synctest.Wait()
			if len(got) > 0 {
				t.Errorf("delivered beside a hole whose writer may live: %v", got)
			}
			if reads = m.readCount() - reads; reads > 100 {
				t.Errorf("%d questions in 0.9 s of waiting", reads)
			}
			time.Sleep(1100 * time.Millisecond) // 2 s in all
			synctest.Wait()
			if want := []string{"3 filler3", "4 filler4", "5 c"}; !reflect.DeepEqual(got, want) {
				t.Errorf("with %d pages: delivered %v, want %v", pages, got, want)
			}
		})
	}
}

// The writer of a hole that is alive fills it itself; the follower then goes on at once.
func TestLateWriter(t *testing.T) {
	m := &memoryStore{}
	m.write("a")
	withLog(t, m, func(t *testing.T, l *Log) {
		l.AddPages(1)
		var got []string
		l.Subscribe(1, func(entries []store.Entry) { got = append(got, ids(entries)...) })
		m.set(func() { m.entries = append(m.entries, store.Entry{}) })
		m.write("c")
		time.Sleep(500 * time.Millisecond)
		m.set(func() { m.entries[1] = store.Entry{N: 2, Kind: store.LoggedOut, ClientID: "b"} })
		time.Sleep(20 * time.Millisecond)
		synctest.Wait()
		if want := []string{"2 b", "3 c"}; !reflect.DeepEqual(got, want) {
			t.Errorf("delivered %v, want %v", got, want)
		}
	})
}

// A process that starts while a number is reserved must not take a later one as its position.
func TestStartBesideHole(t *testing.T) {
	m := &memoryStore{}
	m.write("a", "b")
	m.set(func() { m.entries = append(m.entries, store.Entry{}) })
	m.write("d")
	withLog(t, m, func(t *testing.T, l *Log) {
		<-l.Ready()
		if got, want := ids(l.Recent()), []string{"1 a", "2 b"}; !reflect.DeepEqual(got, want) {
			t.Errorf("recent %v, want %v", got, want)
		}
		var got []string
		l.Subscribe(2, func(entries []store.Entry) { got = append(got, ids(entries)...) })
		m.set(func() { m.entries[2] = store.Entry{N: 3, Kind: store.LoggedOut, ClientID: "c"} })
		time.Sleep(2 * time.Second)
		synctest.Wait()
		if want := []string{"3 c", "4 d"}; !reflect.DeepEqual(got, want) {
			t.Errorf("delivered %v, want %v", got, want)
		}
	})
}

// All processes together ask at most maxPolls times a second, whatever each of them does.
func TestShareOfQuestions(t *testing.T) {
	for _, processes := range []int{1, 40, 400} {
		for _, appending := range []bool{false, true} {
			m := &memoryStore{processes: processes}
			withLog(t, m, func(t *testing.T, l *Log) {
				l.AddPages(1)
				time.Sleep(time.Second)
				m.set(func() { m.reads = 0 })
				for i := range 1000 { // messages of other processes all the time, so that there is always news
					m.write(fmt.Sprint("other", i))
					if appending {
						l.Append(t.Context(), store.Entry{Kind: store.LoggedOut})
					}
					time.Sleep(time.Millisecond)
				}
				if reads := m.readCount(); reads*processes > maxPolls*11/10 {
					t.Errorf("appending %v: %d questions a second of each of %d processes", appending, reads, processes)
				}
			})
		}
	}
}
