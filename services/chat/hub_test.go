package chat

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"balanza/services/store"
)

var (
	ana  = store.Author{ID: "ana@example.com", Nombre: "Ana", Apellido: "Díaz", Edad: 31, Alias: "anita", Avatar: "https://example.com/a.png"}
	beto = store.Author{ID: "beto@example.com", Nombre: "Beto", Apellido: "O'Hara", Edad: 40, Alias: "<b>"}
)

// event is a frame of any type.
type event struct {
	Type       string
	Last       int64
	Reset      bool
	Normalised Normalised
	ID         string
	Product    *store.Product
}

func (e event) ids() []int64 { return e.Normalised.Entities.Chats["mensajes"].Messages }

// next waits for the next frame; ok is false when the listener has ended.
func next(t *testing.T, l *Listener) (e event, ok bool) {
	t.Helper()
	select {
	case frame, ok := <-l.C:
		if !ok {
			return e, false
		}
		if err := json.Unmarshal(frame, &e); err != nil {
			t.Fatalf("frame %.80s: %v", frame, err)
		}
		return e, true
	case <-time.After(20 * time.Second):
		t.Fatal("no frame came")
		return e, false
	}
}

// await is next, but fails the test when the listener has ended.
func await(t *testing.T, l *Listener) event {
	t.Helper()
	e, ok := next(t, l)
	if !ok {
		t.Fatalf("listener ended: %v", l.Err())
	}
	return e
}

func join(t *testing.T, h *Hub, session string, after int64) *Listener {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	l, err := h.Join(ctx, session, after)
	if err != nil {
		t.Fatalf("Join after %d: %v", after, err)
	}
	t.Cleanup(l.Close)
	return l
}

func send(t *testing.T, h *Hub, author store.Author, text, clientID string) store.Entry {
	t.Helper()
	e, err := h.Send(t.Context(), author, text, clientID)()
	if err != nil {
		t.Fatalf("Send %q: %v", text, err)
	}
	return e
}

func appendEntry(t *testing.T, h *Hub, kind store.Kind, subject string) {
	t.Helper()
	if _, err := h.log.Append(t.Context(), store.Entry{Kind: kind, Subject: subject}); err != nil {
		t.Fatal(err)
	}
}

func TestMessageReachesEveryProcess(t *testing.T) {
	m := &memory{}
	first, _ := process(t, m)
	second, _ := process(t, m)
	a, b := join(t, first, "s1", 0), join(t, second, "s2", 0)
	for _, l := range []*Listener{a, b} {
		if e := await(t, l); e.Type != "chat" || !e.Reset || len(e.ids()) != 0 {
			t.Errorf("first frame of an empty chat: %+v", e)
		}
	}
	sent := send(t, first, ana, "hola", "c1")
	for _, l := range []*Listener{a, b} {
		e := await(t, l)
		got := e.Normalised.Entities.Messages["1"]
		if got.Text != "hola" || got.Author != ana.ID || !got.Time.Equal(sent.Message.Time) || e.Last != sent.N || e.Reset {
			t.Errorf("got %+v", e)
		}
		if e.Normalised.Entities.Authors[ana.ID] != ana {
			t.Errorf("author: %+v", e.Normalised.Entities.Authors)
		}
	}
}

func TestSendTwiceIsOneMessage(t *testing.T) {
	h, _ := process(t, &memory{})
	first := send(t, h, ana, "hola", "c1")
	if repeated := send(t, h, ana, "hola", "c1"); repeated.N != first.N {
		t.Errorf("sent again with the same clientId: message %d, want %d", repeated.N, first.N)
	}
	if other := send(t, h, beto, "hola", "c1"); other.N == first.N {
		t.Error("messages of two authors with equal clientIds became one")
	}
}

func TestSendInvalidMessage(t *testing.T) {
	m := &memory{}
	h, _ := process(t, m)
	for _, c := range []struct{ name, text, clientID, field string }{
		{"empty text", "", "c", "text"},
		{"blank text", " \n\t", "c", "text"},
		{"long text", strings.Repeat("ñ", MaxText+1), "c", "text"},
		{"bad UTF-8", "a\xff", "c", "text"},
		{"NUL", "a\x00b", "c", "text"},
		{"no clientId", "a", "", "clientId"},
		{"long clientId", "a", strings.Repeat("c", MaxClientID+1), "clientId"},
		{"line feed in clientId", "a", "c\n", "clientId"},
		{"bad UTF-8 in clientId", "a", "c\xff", "clientId"},
	} {
		_, err := h.Send(t.Context(), ana, c.text, c.clientID)()
		if invalid, ok := errors.AsType[*InvalidError](err); !ok || invalid.Field != c.field {
			t.Errorf("%s: %v", c.name, err)
		}
	}
	send(t, h, ana, strings.Repeat("ñ", MaxText), strings.Repeat("c", MaxClientID))
	if len(m.entries) != 1 {
		t.Errorf("the log has %d entries, want only the valid message", len(m.entries))
	}
}

// Pages join and leave the hubs of two processes while messages are sent. Each page gets every message once, in order.
func TestExactlyOnceOverManyConnections(t *testing.T) {
	const messages, pages = 600, 8
	m := &memory{}
	hubs := make([]*Hub, 2)
	for i := range hubs {
		hubs[i], _ = process(t, m)
	}
	var wg sync.WaitGroup
	for i := range pages {
		wg.Go(func() {
			var seen []int64
			last := int64(0)
			for len(seen) < messages {
				l, err := hubs[rand.IntN(2)].Join(t.Context(), fmt.Sprint(i), last)
				if err != nil {
					t.Errorf("page %d: %v", i, err)
					return
				}
				for range 1 + rand.IntN(10) {
					if len(seen) >= messages {
						break
					}
					e, ok := next(t, l)
					if !ok {
						break
					}
					seen = append(seen, e.ids()...)
					last = e.Last
				}
				l.Close()
			}
			if len(seen) != messages || !slices.IsSorted(seen) || len(slices.Compact(seen)) != messages {
				t.Errorf("page %d saw %d messages, in order: %v", i, len(seen), slices.IsSorted(seen))
			}
		})
	}
	for i := range 6 {
		wg.Go(func() {
			for j := range messages / 6 {
				send(t, hubs[i%2], ana, "hola", fmt.Sprintf("%d-%d", i, j))
			}
		})
	}
	wg.Wait()
}

func TestSlowListenerIsDropped(t *testing.T) {
	h, _ := process(t, &memory{})
	slow, quick := join(t, h, "slow", 0), join(t, h, "quick", 0)
	await(t, quick)
	for i := range queueLength + 2 {
		send(t, h, ana, "hola", fmt.Sprint(i))
		await(t, quick)
	}
	for {
		if _, ok := next(t, slow); !ok {
			break
		}
	}
	if !errors.Is(slow.Err(), ErrSlow) {
		t.Errorf("slow listener: %v", slow.Err())
	}
	if err := quick.Err(); err != nil {
		t.Errorf("quick listener: %v", err)
	}
}

func TestLogOutEndsTheSessionsListeners(t *testing.T) {
	m := &memory{}
	first, _ := process(t, m)
	second, _ := process(t, m)
	out, stays := join(t, second, "gone", 0), join(t, second, "other", 0)
	await(t, out)
	await(t, stays)
	appendEntry(t, first, store.LoggedOut, "gone")
	if e, ok := next(t, out); ok || !errors.Is(out.Err(), ErrLoggedOut) {
		t.Errorf("got %+v, %v", e, out.Err())
	}
	send(t, first, ana, "hola", "c1")
	await(t, stays)
}

func TestProductChange(t *testing.T) {
	p := store.Product{ID: "p1", Nombre: "Regla", Precio: 12.5, Foto: "https://example.com/r.png"}
	m := &memory{products: map[string]store.Product{p.ID: p}}
	h, _ := process(t, m)
	l := join(t, h, "s", 0)
	await(t, l)
	appendEntry(t, h, store.ProductChanged, p.ID)
	if e := await(t, l); e.Type != "product" || e.ID != p.ID || e.Product == nil || *e.Product != p {
		t.Errorf("written: %+v", e)
	}
	m.set(func() { delete(m.products, p.ID) })
	appendEntry(t, h, store.ProductChanged, p.ID)
	if e := await(t, l); e.Type != "product" || e.ID != p.ID || e.Product != nil {
		t.Errorf("deleted: %+v", e)
	}
}

// A product that cannot be read delays no message. It is delivered as soon as it can be read, once for all its changes.
func TestUnreadableProduct(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := &memory{noProduct: true}
		h, stop := process(t, m)
		defer stop()
		l := join(t, h, "s", 0)
		await(t, l)
		for range 5 {
			appendEntry(t, h, store.ProductChanged, "p1")
		}
		send(t, h, ana, "hola", "c1")
		if e := await(t, l); e.Type != "chat" || len(e.ids()) != 1 {
			t.Errorf("got %+v", e)
		}
		time.Sleep(5 * retryInterval) // several attempts to read it fail
		m.set(func() { m.noProduct = false })
		if e := await(t, l); e.Type != "product" || e.ID != "p1" {
			t.Errorf("got %+v", e)
		}
		send(t, h, ana, "adiós", "c2")
		if e := await(t, l); e.Type != "chat" {
			t.Errorf("delivered twice: %+v", e)
		}
	})
}

// checkIDs fails the test unless ids are that many consecutive numbers from first on.
func checkIDs(t *testing.T, ids []int64, first int64, count int) {
	t.Helper()
	if len(ids) != count {
		t.Errorf("%d messages, want %d", len(ids), count)
	}
	for i, id := range ids {
		if want := first + int64(i); id != want {
			t.Fatalf("message %d has number %d, want %d", i, id, want)
		}
	}
}

func TestJoinDeliversMissedMessages(t *testing.T) {
	const messages, others = 3000, 2500 // of each more than the log keeps in memory
	for _, c := range []struct {
		name         string
		after, first int64
		messages     int
		reset        bool
	}{
		{"nothing yet", 0, messages - recentCount + 1, recentCount, true},
		{"a few messages", messages - 5, messages - 4, 5, false},
		{"beyond the hub's memory", messages - recentCount - 700, messages - recentCount - 699, recentCount + 700, false},
		{"nearly all", 1, 2, messages - 1, false},
		{"nothing missed", messages + others, 0, 0, false},
		{"ahead of this process", messages + others + 3, 0, 0, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			m := &memory{}
			m.fill(messages, store.MessagePosted)
			m.fill(others, store.LoggedOut)
			h, _ := process(t, m)
			l := join(t, h, "s", c.after)
			var ids []int64
			for first := true; ; first = false {
				e := await(t, l)
				if e.Reset != (c.reset && first) {
					t.Errorf("frame up to %d: reset %v", e.Last, e.Reset)
				}
				ids = append(ids, e.ids()...)
				if e.Last >= messages+others {
					break
				}
			}
			checkIDs(t, ids, c.first, c.messages)
		})
	}
}

// When a store lacks entries for a while, a listener ends instead of missing them, and the page joins again.
func TestJoinOnAStoreThatMissesEntries(t *testing.T) {
	const messages, known = 3000, 1000
	m := &memory{hole: known + 1}
	m.fill(messages, store.MessagePosted)
	h, _ := process(t, m)
	l := join(t, h, "s", 1)
	last := int64(1)
	for last < known {
		last = await(t, l).Last
	}
	if e, open := next(t, l); open || !errors.Is(l.Err(), store.ErrUnavailable) {
		t.Errorf("delivered up to %d, then %d more, ended with %v", last, len(e.ids()), l.Err())
	}
	if _, err := h.Join(t.Context(), "s", last); !errors.Is(err, store.ErrUnavailable) {
		t.Errorf("joining where the store lacks the next entry: %v", err)
	}
	m.set(func() { m.hole = 0 })
	l = join(t, h, "s", last)
	for last < messages {
		e := await(t, l)
		if ids := e.ids(); ids[0] != last+1 || ids[len(ids)-1] != last+int64(len(ids)) {
			t.Fatalf("after %d: %v", last, ids)
		}
		last = e.Last
	}
}

// A page that missed more messages than the store can read in time gets a part of them each time that it joins.
func TestJoinOnASlowStore(t *testing.T) {
	const messages = 3000
	synctest.Test(t, func(t *testing.T) {
		m := &memory{}
		m.fill(messages, store.MessagePosted)
		h, stop := process(t, m)
		defer stop()
		await(t, join(t, h, "s", 0))
		m.set(func() { m.slow = true })
		var ids []int64
		last := int64(1)
		for last < messages {
			ctx, cancel := context.WithTimeout(t.Context(), 1500*time.Millisecond)
			l, err := h.Join(ctx, "s", last)
			cancel()
			if err != nil {
				t.Fatal(err)
			}
			before := last
			for {
				e, open := next(t, l)
				if !open {
					if !errors.Is(l.Err(), store.ErrUnavailable) {
						t.Errorf("ended with %v", l.Err())
					}
					break
				}
				ids, last = append(ids, e.ids()...), e.Last
				if last == messages {
					break
				}
			}
			l.Close()
			if last == before {
				t.Fatalf("no more than %d", last)
			}
		}
		checkIDs(t, ids, 2, messages-1)
	})
}

func TestTooFarBehindIsReset(t *testing.T) {
	m := &memory{}
	m.fill(maxBehind+10, store.MessagePosted)
	h, _ := process(t, m)
	if e := await(t, join(t, h, "s", 5)); !e.Reset || len(e.ids()) != recentCount {
		t.Errorf("reset %v with %d messages", e.Reset, len(e.ids()))
	}
}

// A page that got entries from one process does not get them again from another process that received them later.
func TestListenerAheadOfItsProcess(t *testing.T) {
	h, _ := process(t, &memory{})
	l := join(t, h, "s", 2)
	await(t, l)
	entries := make([]store.Entry, 3)
	for i := range entries {
		entries[i] = store.Entry{N: int64(i) + 1, Kind: store.MessagePosted, Message: &store.Message{Author: ana, Text: "hola"}}
	}
	h.deliver(entries, chatFrame(entries, 3, false))
	if e := await(t, l); !slices.Equal(e.ids(), []int64{3}) || e.Last != 3 {
		t.Errorf("delivered %v up to %d", e.ids(), e.Last)
	}
}

// A page that joins while the log has entries that the hub has not delivered yet gets them once.
func TestJoinWhileTheLogIsAhead(t *testing.T) {
	const delivered, all = 2 * recentCount, 2*recentCount + 7
	m := &memory{}
	m.fill(all, store.MessagePosted)
	h := NewHub(m, newLog(m))
	close(h.ready)
	h.deliver(m.entries[:delivered], nil)
	l := join(t, h, "s", 1)
	h.deliver(m.entries[delivered:], chatFrame(m.entries[delivered:], all, false))
	var ids []int64
	for last := int64(0); last < all; {
		e := await(t, l)
		ids, last = append(ids, e.ids()...), e.Last
	}
	checkIDs(t, ids, 2, all-1)
}

// A store that lost its last entries in a crash gives their numbers to new entries, which the listeners must get.
func TestNumbersUsedAgain(t *testing.T) {
	h, _ := process(t, &memory{})
	l := join(t, h, "s", 0)
	await(t, l)
	entry := func(n int64, text string) []store.Entry {
		return []store.Entry{{N: n, Kind: store.MessagePosted, Message: &store.Message{Author: ana, Text: text}}}
	}
	for _, batch := range [][]store.Entry{entry(1, "one"), entry(2, "lost"), entry(2, "instead")} {
		h.deliver(batch, chatFrame(batch, batch[0].N, false))
		if e := await(t, l); e.Normalised.Entities.Messages[fmt.Sprint(batch[0].N)].Text != batch[0].Message.Text {
			t.Errorf("delivered %+v, want %q", e, batch[0].Message.Text)
		}
	}
	late := await(t, join(t, h, "late", 0))
	if !slices.Equal(late.ids(), []int64{1, 2}) || late.Normalised.Entities.Messages["2"].Text != "instead" {
		t.Errorf("a page that joins later gets %+v", late.Normalised.Entities.Messages)
	}
}

func TestStopEndsListeners(t *testing.T) {
	h, stop := process(t, &memory{})
	l := join(t, h, "s", 0)
	await(t, l)
	stop()
	if _, ok := next(t, l); ok || !errors.Is(l.Err(), ErrClosed) {
		t.Errorf("after the stop: open %v, %v", ok, l.Err())
	}
	if _, err := h.Join(t.Context(), "s", 0); !errors.Is(err, ErrClosed) {
		t.Errorf("joining after the stop: %v", err)
	}
}

// Join waits until the recent messages are read. It fails while the store is down or lacks entries.
func TestStoreFailsAtStart(t *testing.T) {
	for _, c := range []struct {
		name string
		m    *memory
		fill func(m *memory)
		want int // messages once the store works
	}{
		{"down", &memory{down: true}, func(m *memory) { m.fill(3, store.MessagePosted) }, 3},
		{"lacks entries", &memory{hole: 150}, func(m *memory) {
			m.fill(100, store.MessagePosted)
			m.fill(500, store.LoggedOut)
			m.fill(1, store.MessagePosted)
		}, 101},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				c.fill(c.m)
				h, stop := process(t, c.m)
				defer stop()
				ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
				defer cancel()
				if _, err := h.Join(ctx, "s", 0); !errors.Is(err, store.ErrUnavailable) {
					t.Errorf("joining while the store fails: %v", err)
				}
				c.m.set(func() { c.m.down, c.m.hole = false, 0 })
				if e := await(t, join(t, h, "s", 0)); len(e.ids()) != c.want {
					t.Errorf("%d messages after the store came back, want %d", len(e.ids()), c.want)
				}
			})
		})
	}
}
