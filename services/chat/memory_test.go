package chat

import (
	"context"
	"log/slog"
	"slices"
	"sync"
	"testing"
	"time"

	"balanza/services/eventlog"
	"balanza/services/store"
)

// memory is a store in memory, with a log and products only.
type memory struct {
	store.Store
	mu        sync.Mutex
	entries   []store.Entry
	products  map[string]store.Product
	down      bool // every call fails
	noProduct bool // Product fails
	slow      bool // After takes a second
}

// unlimited is a limit on messages that no test reaches.
const unlimited = 1 << 30

// maxAfter is the highest number of entries that After returns.
const maxAfter = 300

func (m *memory) locked() (unlock func(), err error) {
	m.mu.Lock()
	if m.down {
		m.mu.Unlock()
		return nil, store.ErrUnavailable
	}
	return m.mu.Unlock, nil
}

func (m *memory) Append(_ context.Context, entries []store.Entry) ([]store.Entry, error) {
	unlock, err := m.locked()
	if err != nil {
		return nil, err
	}
	defer unlock()
	stored := slices.Clone(entries)
	for i, e := range entries {
		if known := m.index(e.Author, e.ClientID); known >= 0 {
			stored[i] = m.entries[known]
			continue
		}
		stored[i].N = int64(len(m.entries)) + 1
		m.entries = append(m.entries, stored[i])
	}
	return stored, nil
}

func (m *memory) Now(context.Context) (time.Time, error) { return time.Now(), nil }

func (m *memory) After(ctx context.Context, n int64, limit int) ([]store.Entry, error) {
	unlock, err := m.locked()
	if err != nil {
		return nil, err
	}
	rest := m.entries[min(n, int64(len(m.entries))):]
	rest, slow := slices.Clone(rest[:min(limit, len(rest), maxAfter)]), m.slow
	unlock()
	if slow {
		select {
		case <-time.After(time.Second):
		case <-ctx.Done():
			return nil, store.ErrUnavailable
		}
	}
	return rest, nil
}

func (m *memory) Last(context.Context) (int64, error) {
	unlock, err := m.locked()
	if err != nil {
		return 0, err
	}
	defer unlock()
	return int64(len(m.entries)), nil
}

func (m *memory) index(author, clientID string) int {
	return slices.IndexFunc(m.entries, func(e store.Entry) bool { return e.Author == author && e.ClientID == clientID })
}

func (m *memory) Product(_ context.Context, id string) (store.Product, error) {
	unlock, err := m.locked()
	if err != nil {
		return store.Product{}, err
	}
	defer unlock()
	if m.noProduct {
		return store.Product{}, store.ErrUnavailable
	}
	p, ok := m.products[id]
	if !ok {
		return store.Product{}, store.ErrNotFound
	}
	return p, nil
}

func (m *memory) set(change func()) {
	m.mu.Lock()
	defer m.mu.Unlock()
	change()
}

// fill adds n entries to the log without Append.
func (m *memory) fill(n int, kind store.Kind) {
	for range n {
		e := store.Entry{N: int64(len(m.entries)) + 1, Kind: kind}
		if kind == store.MessagePosted {
			e.Message = &store.Message{Author: ana, Text: "hola"}
		}
		m.entries = append(m.entries, e)
	}
}

// newLog returns the log of a store.
func newLog(s store.Store) *eventlog.Log {
	return eventlog.New(s, store.NewClock(s, slog.New(slog.DiscardHandler)), func() int { return 1 })
}

// process starts the log and the hub of one process. stop ends both, at the latest at the end of the test.
func process(t *testing.T, s store.Store) (h *Hub, stop func()) {
	t.Helper()
	return limitedProcess(t, s, unlimited)
}

// limitedProcess is process with a limit on an author's messages in a minute.
func limitedProcess(t *testing.T, s store.Store, perMinute int) (h *Hub, stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	l := newLog(s)
	h = NewHub(s, l, perMinute)
	var running sync.WaitGroup
	running.Go(func() { _ = l.Run(ctx) }) // Run has no error to return
	running.Go(func() {
		if err := h.Run(ctx); err != nil {
			t.Errorf("Run: %v", err)
		}
	})
	stop = sync.OnceFunc(func() { cancel(); running.Wait() })
	t.Cleanup(stop)
	return h, stop
}
