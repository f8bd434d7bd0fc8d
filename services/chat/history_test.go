package chat

import (
	"context"
	"errors"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"balanza/services/store"
)

// history reads back from a number, page by page, and returns the numbers of all messages in order, and the most messages and
// the number of pages that it got.
func history(t *testing.T, h *Hub, before int64, limit int) (ids []int64, most, pages int) {
	t.Helper()
	for before > 0 {
		messages, next, err := h.History(t.Context(), before, limit)
		if err != nil {
			t.Fatal(err)
		}
		if next >= before && next > 0 {
			t.Fatalf("before %d, the next page is before %d", before, next)
		}
		var page []int64
		for _, e := range messages {
			if e.Message == nil || e.N >= before {
				t.Errorf("before %d: entry %d of kind %s", before, e.N, e.Kind)
			}
			page = append(page, e.N)
		}
		ids, most, before, pages = append(page, ids...), max(most, len(page)), next, pages+1
	}
	return ids, most, pages
}

// History returns every message once, whatever is between them: other entries, or numbers that are missing.
func TestHistory(t *testing.T) {
	const all = 9000
	messagesOnly := func(m *memory) { m.fill(all, store.MessagePosted) }
	for _, c := range []struct {
		name        string
		fill        func(m *memory)
		prunedUntil int64
		before      int64
		limit       int
		want        func(n int64) bool
		pages       int // at most
	}{
		{"messages only", messagesOnly, 0, all + 1, 200, func(int64) bool { return true }, all/200 + 1},
		{"from the end of time", messagesOnly, 0, 1 << 53, 200, func(int64) bool { return true }, all/200 + 1},
		{"from the middle", messagesOnly, 0, 1000, 7, func(n int64) bool { return n < 1000 }, 1000/7 + 1},
		{"few", messagesOnly, 0, 3, 200, func(n int64) bool { return n < 3 }, 1},
		{"before the first", messagesOnly, 0, 1, 200, func(int64) bool { return false }, 1},
		{"one at a time", messagesOnly, 0, 5, 1, func(n int64) bool { return n < 5 }, 5},
		{"pruned", messagesOnly, 7950, all + 1, 100, func(n int64) bool { return n > 7950 || n%10 == 0 }, 40},
		{"among others", func(m *memory) {
			for range all / 1000 {
				m.fill(10, store.MessagePosted)
				m.fill(990, store.LoggedOut)
			}
		}, 0, all + 1, 100, func(n int64) bool { return (n-1)%1000 < 10 }, 6},
		{"nothing but others", func(m *memory) { m.fill(all, store.ProductChanged) }, 0, all + 1, 100,
			func(int64) bool { return false }, 4},
		{"an empty log", func(*memory) {}, 0, all, 100, func(int64) bool { return false }, 1},
	} {
		t.Run(c.name, func(t *testing.T) {
			m := &memory{}
			c.fill(m)
			h, _ := process(t, pruned{m, c.prunedUntil})
			ids, most, pages := history(t, h, c.before, c.limit)
			var want []int64
			for n := int64(1); n < min(c.before, all+1); n++ {
				if c.want(n) {
					want = append(want, n)
				}
			}
			if len(m.entries) == 0 {
				want = nil
			}
			if !slices.Equal(ids, want) || most > c.limit || pages > c.pages {
				t.Errorf("%d messages in %d pages of at most %d, want %d messages in %d pages of %d",
					len(ids), pages, most, len(want), c.pages, c.limit)
			}
		})
	}
}

// Where the log begins late, nobody asks for what precedes it.
func TestHistoryBeforeTheLogsBegin(t *testing.T) {
	m := &memory{}
	m.fill(500_000, store.Filler)
	m.fill(3000, store.MessagePosted)
	h, _ := process(t, beginsLate{m, 500_000})
	ids, _, pages := history(t, h, 1<<53, 200)
	checkIDs(t, ids, 500_001, 3000)
	if pages > 17 {
		t.Errorf("%d pages", pages)
	}
}

// beginsLate is a store whose entries up to a number were deleted.
type beginsLate struct {
	*memory
	deleted int64
}

func (b beginsLate) After(ctx context.Context, n int64, limit int) ([]store.Entry, error) {
	return b.memory.After(ctx, max(n, b.deleted), limit)
}

// countedReads is a store that knows how many calls of After run at the same time at most.
type countedReads struct {
	*memory
	mu           sync.Mutex
	running, top int
}

func (c *countedReads) After(ctx context.Context, n int64, limit int) ([]store.Entry, error) {
	c.mu.Lock()
	c.running++
	c.top = max(c.top, c.running)
	c.mu.Unlock()
	defer func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		c.running--
	}()
	return c.memory.After(ctx, n, limit)
}

// Pages that catch up, and readers of the history, take turns; one whose client goes away gives up its place at once.
func TestOldReadsTakeTurns(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := &countedReads{memory: &memory{}}
		m.fill(9000, store.MessagePosted)
		h, stop := process(t, m)
		defer stop()
		await(t, join(t, h, "s", 0))
		m.set(func() { m.slow = true })
		m.top = 0
		var reading sync.WaitGroup
		for range 5 {
			reading.Go(func() {
				p, err := tryJoin(t.Context(), h, "s", 1)
				if err != nil {
					t.Error(err)
					return
				}
				defer p.Close()
				await(t, p)
			})
			reading.Go(func() {
				if _, _, err := h.History(t.Context(), 5000, 10); err != nil {
					t.Error(err)
				}
			})
		}
		gone, leave := context.WithCancel(t.Context())
		reading.Go(func() {
			time.Sleep(100 * time.Millisecond)
			_, _, err := h.History(gone, 5000, 10)
			if !errors.Is(err, store.ErrUnavailable) {
				t.Errorf("after the client has gone: %v", err)
			}
		})
		time.Sleep(200 * time.Millisecond)
		began := time.Now()
		leave()
		synctest.Wait()
		if time.Since(began) > 0 {
			t.Error("it stays in the queue")
		}
		reading.Wait()
		if m.top > cap(h.reads)+1 { // the follower reads, too
			t.Errorf("%d reads at the same time", m.top)
		}
	})
}

// A page that missed many messages keeps in memory only what it can read next.
func TestCatchingUpKeepsLittle(t *testing.T) {
	m := &memory{}
	m.fill(maxBehind, store.MessagePosted)
	h, _ := process(t, m)
	p := join(t, h, "s", 1)
	var ids []int64
	for last := int64(1); last < maxBehind; {
		e := await(t, p)
		ids, last = append(ids, e.ids()...), e.Last
		p.mu.Lock()
		queued := len(p.queue)
		p.mu.Unlock()
		if last < maxBehind-2*heldCount && queued > catchUpBatch/10 {
			t.Fatalf("%d frames wait", queued)
		}
	}
	checkIDs(t, ids, 2, maxBehind-1)
}
