package store

import (
	"context"
	"errors"
	"fmt"
	"reflect"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// memory is a log in memory, and no more of a store than that.
type memory struct {
	Store
	mu      sync.Mutex
	entries []Entry
	down    error // what every call fails with
	asked   int   // calls of After
	appends int   // calls of Append
}

func (m *memory) Append(_ context.Context, last int64, entries []Entry) (int, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.appends++
	if m.down != nil {
		return 0, m.down
	}
	if last != int64(len(m.entries)) {
		return 0, nil
	}
	for i, e := range entries {
		for _, other := range m.entries {
			if other.id() == e.id() {
				return i, nil
			}
		}
		e.N = last + int64(i) + 1
		m.entries = append(m.entries, e)
	}
	return len(entries), nil
}

func (m *memory) After(_ context.Context, n int64, limit int) ([]Entry, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.asked++
	if m.down != nil {
		return nil, m.down
	}
	rest := m.entries[min(int(n), len(m.entries)):]
	return append([]Entry{}, rest[:min(limit, len(rest), 77)]...), nil // perhaps fewer than there are, as a slow store
}

func (m *memory) Last(context.Context) (int64, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return int64(len(m.entries)), m.down
}

func (m *memory) Said(_ context.Context, author, clientID string) (Entry, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, e := range m.entries {
		if e.id() == (entryID{author, clientID}) {
			return e, m.down
		}
	}
	return Entry{}, errors.Join(ErrNotFound, m.down)
}

func (m *memory) set(f func()) {
	m.mu.Lock()
	defer m.mu.Unlock()
	f()
}

// write appends as another process would.
func (m *memory) write(clientIDs ...string) {
	m.set(func() {
		for _, id := range clientIDs {
			m.entries = append(m.entries, Entry{N: int64(len(m.entries)) + 1, Kind: LoggedOut, ClientID: id})
		}
	})
}

func ids(entries []Entry) []string {
	var ids []string
	for _, e := range entries {
		ids = append(ids, fmt.Sprintf("%d %s", e.N, e.ClientID))
	}
	return ids
}

// inLog runs a test in a bubble of its own time, with the log of m running until the test ends.
func inLog(t *testing.T, m *memory, test func(t *testing.T, l *Log)) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		l := NewLog(m)
		done := make(chan error)
		go func() { done <- l.Run(ctx) }()
		test(t, l)
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
		if _, err := l.Append(context.Background(), Entry{Kind: LoggedOut}); !errors.Is(err, ErrUnavailable) {
			t.Errorf("append to a log that ended: %v", err)
		}
	})
}

func within(t *testing.T, d time.Duration) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), d)
	t.Cleanup(cancel)
	return ctx
}

func TestPace(t *testing.T) {
	m := &memory{}
	inLog(t, m, func(t *testing.T, l *Log) {
		asked := func(d time.Duration) int {
			m.set(func() { m.asked = 0 })
			time.Sleep(d)
			synctest.Wait()
			m.mu.Lock()
			defer m.mu.Unlock()
			return m.asked
		}
		time.Sleep(time.Millisecond)
		for _, step := range []struct {
			what string
			do   func()
			want int // questions in the next 2 s
		}{
			{"no page", func() {}, 2},
			{"a page opens", func() { l.Watching(1) }, 40},
			{"another process says something", func() { m.write("a") }, 195},
			{"all is silent for long", func() { time.Sleep(activeFor) }, 40},
			{"the page closes", func() { l.Watching(-1) }, 2},
		} {
			step.do()
			if got := asked(2 * time.Second); got < step.want-3 || got > step.want+6 {
				t.Errorf("%s: %d questions in 2 s, want about %d", step.what, got, step.want)
			}
		}
	})
}

func TestAppendGivesUpWithItsContext(t *testing.T) {
	m := &memory{down: fmt.Errorf("%w: down", ErrUnavailable)}
	inLog(t, m, func(t *testing.T, l *Log) {
		_, err := l.Append(within(t, time.Second), Entry{Kind: LoggedOut, ClientID: "abandoned"})
		if !errors.Is(err, ErrUnavailable) || !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("append to a store that is down: %v", err)
		}
		time.AfterFunc(2*time.Second, func() { m.set(func() { m.down = nil }) })
		e, err := l.Append(within(t, 10*time.Second), Entry{Kind: LoggedOut, ClientID: "waits"})
		if err != nil || e.N != 1 {
			t.Errorf("append to a store that comes back: %+v, %v", e, err)
		}
	})
}

func TestAppendOfWhatTheStoreNeverTakes(t *testing.T) {
	broken := errors.New("broken")
	m := &memory{}
	inLog(t, m, func(t *testing.T, l *Log) {
		synctest.Wait()
		m.set(func() { m.down = broken })
		if _, err := l.Append(within(t, time.Minute), Entry{Kind: LoggedOut}); !errors.Is(err, broken) {
			t.Errorf("error %v, want %v", err, broken)
		}
		if _, err := l.Append(within(t, time.Minute), Entry{Kind: MessageSaid}); !errors.Is(err, ErrInvalid) {
			t.Errorf("append of a message without one: %v", err)
		}
		m.set(func() { m.down = nil })
		if e, err := l.Append(within(t, time.Minute), Entry{Kind: LoggedOut}); err != nil || e.N != 1 {
			t.Errorf("append afterwards: %+v, %v", e, err)
		}
	})
}

func TestAppendBatches(t *testing.T) {
	m := &memory{down: fmt.Errorf("%w: down", ErrUnavailable)}
	inLog(t, m, func(t *testing.T, l *Log) {
		const n = 300
		numbers := make(chan int64, n)
		for i := range n {
			go func() {
				// Every id is asked for twice at once.
				e, err := l.Append(within(t, time.Minute), Entry{Kind: LoggedOut, ClientID: fmt.Sprint("c", i/2)})
				if err != nil {
					t.Error(err)
				}
				numbers <- e.N
			}()
		}
		time.Sleep(time.Millisecond)
		m.set(func() { m.down, m.appends = nil, 0 })
		times := map[int64]int{}
		for range n {
			times[<-numbers]++
		}
		for number, count := range times {
			if count != 2 || number < 1 || number > n/2 {
				t.Errorf("number %d was told %d times", number, count)
			}
		}
		if m.appends != 1 {
			t.Errorf("%d batches for what gathered while the store was down", m.appends)
		}
	})
}

func TestSubscribe(t *testing.T) {
	m := &memory{}
	for i := range 2500 {
		m.write(fmt.Sprint("c", i))
	}
	inLog(t, m, func(t *testing.T, l *Log) {
		type subscription struct {
			after, first int64
			got          []Entry
		}
		subs := []*subscription{{after: 0, first: 1}, {after: 700, first: 701}, {after: 2499, first: 2500}, {after: 2502, first: 2503},
			{after: -1, first: 2500 - portion + 1}}
		for _, s := range subs {
			l.Subscribe(s.after, func(entries []Entry) { s.got = append(s.got, entries...) })
		}
		var cancelled []Entry
		cancel := l.Subscribe(2500, func(entries []Entry) { cancelled = append(cancelled, entries...) })
		synctest.Wait()
		l.Watching(1)
		m.write("x1", "x2")
		time.Sleep(time.Second)
		synctest.Wait()
		cancel()
		for i := range 2000 { // more than is kept
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
		if len(recent) < kept || len(recent) > 2*kept || recent[len(recent)-1].N != 4502 {
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

// A server that is killed may forget entries that were read already, if they were not acknowledged.
func TestServerForgets(t *testing.T) {
	for _, test := range []struct {
		what string
		keep int
	}{{"the last", 3}, {"all", 0}} {
		t.Run(test.what, func(t *testing.T) {
			m := &memory{}
			m.write("a", "b", "c", "d")
			inLog(t, m, func(t *testing.T, l *Log) {
				var got []string
				l.Watching(1)
				l.Subscribe(2, func(entries []Entry) { got = append(got, ids(entries)...) })
				time.Sleep(time.Second)
				m.set(func() { m.down = fmt.Errorf("%w: killed", ErrUnavailable) })
				time.Sleep(time.Second)
				m.set(func() { m.down, m.entries = nil, m.entries[:test.keep] })
				m.write("e")
				time.Sleep(2 * time.Second)
				e, err := l.Append(within(t, time.Minute), Entry{Kind: LoggedOut, ClientID: "f"})
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
