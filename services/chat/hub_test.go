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
	More       bool
	Normalised Normalised
	ID         string
	Product    *store.Product
}

func (e event) ids() []int64 { return e.Normalised.Entities.Chats["mensajes"].Messages }

// page is a listener whose frames a test waits for.
type page struct {
	*Listener
	ctx   context.Context // of CatchUp
	woken chan struct{}   // of capacity 1
}

// nextFrame waits for the next frame, or for the error with which the listener has ended.
func (p *page) nextFrame(t *testing.T) ([]byte, error) {
	t.Helper()
	timeout := time.After(20 * time.Second)
	for {
		frame, err := p.Next()
		if errors.Is(err, ErrBehind) {
			p.CatchUp(p.ctx)
			continue
		}
		if frame != nil || err != nil {
			return frame, err
		}
		select {
		case <-p.woken:
		case <-timeout:
			t.Fatal("no frame came")
		}
	}
}

// next waits for the next event, or for the error with which the listener has ended.
func next(t *testing.T, p *page) (e event, err error) {
	t.Helper()
	frame, err := p.nextFrame(t)
	if err != nil {
		return e, err
	}
	if err := json.Unmarshal(frame, &e); err != nil {
		t.Fatalf("frame %.80s: %v", frame, err)
	}
	return e, nil
}

// await is next, but fails the test when the listener has ended.
func await(t *testing.T, p *page) event {
	t.Helper()
	e, err := next(t, p)
	if err != nil {
		t.Fatalf("listener ended: %v", err)
	}
	return e
}

// tryJoin joins a hub until ctx ends.
func tryJoin(ctx context.Context, h *Hub, session string, after int64) (*page, error) {
	p := &page{ctx: ctx, woken: make(chan struct{}, 1)}
	l, err := h.Join(ctx, session, after, func() { wake(p.woken) })
	p.Listener = l
	return p, err
}

func join(t *testing.T, h *Hub, session string, after int64) *page {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	p, err := tryJoin(ctx, h, session, after)
	if err != nil {
		t.Fatalf("Join after %d: %v", after, err)
	}
	p.ctx = t.Context()
	t.Cleanup(p.Close)
	return p
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
	for _, l := range []*page{a, b} {
		if e := await(t, l); e.Type != "chat" || !e.Reset || len(e.ids()) != 0 {
			t.Errorf("first frame of an empty chat: %+v", e)
		}
	}
	sent := send(t, first, ana, "hola", "c1")
	for _, l := range []*page{a, b} {
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
				l, err := tryJoin(t.Context(), hubs[rand.IntN(2)], fmt.Sprint(i), last)
				if err != nil {
					t.Errorf("page %d: %v", i, err)
					return
				}
				for range 1 + rand.IntN(10) {
					if len(seen) >= messages {
						break
					}
					e, err := next(t, l)
					if err != nil {
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
	if e, err := next(t, slow); !errors.Is(err, ErrSlow) {
		t.Errorf("slow listener: %+v, %v", e, err)
	}
	if frame, err := quick.Next(); frame != nil || err != nil {
		t.Errorf("quick listener: %s, %v", frame, err)
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
	if e, err := next(t, out); !errors.Is(err, ErrLoggedOut) {
		t.Errorf("got %+v, %v", e, err)
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
		{"beyond the hub's memory", messages - 2*heldCount - 700, messages - 2*heldCount - 699, 2*heldCount + 700, false},
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

// pruned is a store in whose log most old entries were deleted: of those up to the number end only each tenth is left.
type pruned struct {
	*memory
	end int64
}

func (p pruned) After(_ context.Context, n int64, limit int) ([]store.Entry, error) {
	var left []store.Entry
	for _, e := range p.entries[min(n, int64(len(p.entries))):] {
		if len(left) < limit && (e.N > p.end || e.N%10 == 0) {
			left = append(left, e)
		}
	}
	return left, nil
}

// Where old entries were deleted, a page gets the messages that are left, whether it joins again or for the first time.
func TestPrunedLog(t *testing.T) {
	const all, end = 9000, 7950 // the last thousand are never deleted
	m := &memory{}
	m.fill(all, store.MessagePosted)
	h, _ := process(t, pruned{m, end})
	for after, count := range map[int64]int{
		5:    end/10 + all - end, // after an entry that was deleted
		3000: (end-3000)/10 + all - end,
		7945: 1 + all - end,
		0:    recentCount,
	} {
		var ids []int64
		for p, more := join(t, h, "s", after), true; more; {
			e := await(t, p)
			ids, more = append(ids, e.ids()...), e.More
		}
		if len(ids) != count || !slices.IsSorted(ids) || ids[len(ids)-1] != all {
			t.Errorf("after %d: %d messages in order %v, want %d", after, len(ids), slices.IsSorted(ids), count)
		}
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
			l, err := tryJoin(ctx, h, "s", last)
			if err != nil {
				t.Fatal(err)
			}
			before := last
			for {
				e, err := next(t, l)
				if err != nil {
					if !errors.Is(err, store.ErrUnavailable) {
						t.Errorf("ended with %v", err)
					}
					break
				}
				ids, last = append(ids, e.ids()...), e.Last
				if last == messages {
					break
				}
			}
			l.Close()
			cancel()
			if last == before {
				t.Fatalf("no more than %d", last)
			}
		}
		checkIDs(t, ids, 2, messages-1)
	})
}

// The longest messages that the site accepts, in bytes of JSON, of an author with the longest profile.
func longestMessages(count int) []store.Entry {
	author := store.Author{
		ID:     strings.Repeat("\u2028", 254/3), // three bytes, and six in JSON
		Nombre: strings.Repeat("\u2028", 100), Apellido: strings.Repeat("\u2028", 100), Alias: strings.Repeat("\u2028", 50),
		Edad: 150, Avatar: "https://" + strings.Repeat(`"`, 2040),
	}
	entries := make([]store.Entry, count)
	for i := range entries {
		entries[i] = store.Entry{N: int64(i) + 1, Kind: store.MessagePosted, Author: author.ID, ClientID: fmt.Sprint(i),
			Message: &store.Message{Author: author, Text: strings.Repeat("\x01", MaxText), Time: time.Now().UTC()}}
	}
	return entries
}

// No frame is too long for a slow line, and each has the number up to which it brings the page.
func TestFramesAreShort(t *testing.T) {
	messages := longestMessages(recentCount)
	for i := range messages { // some of them short, so that parts of as many messages differ in length
		if i%50 < 25 {
			m := *messages[i].Message
			m.Author, m.Text = ana, "<hola> & adiós"
			messages[i].Message = &m
		}
	}
	const last = recentCount + 5 // other entries follow the messages
	var ids []int64
	frames := chatFrames(messages, last, true, false)
	for i, frame := range frames {
		var e event
		if err := json.Unmarshal(frame, &e); err != nil || len(frame) > maxFrame {
			t.Fatalf("frame %d has %d bytes, %v", i, len(frame), err)
		}
		ids = append(ids, e.ids()...)
		final := i == len(frames)-1
		if e.Reset != (i == 0) || e.More == final || !final && e.Last != ids[len(ids)-1] || final && e.Last != last {
			t.Errorf("frame %d of %d: reset %v, more %v, last %d after %d", i, len(frames), e.Reset, e.More, e.Last, ids[len(ids)-1])
		}
	}
	checkIDs(t, ids, 1, recentCount)
}

// Many pages that join at once while messages are delivered share the encodings, one for each change of the log, and get
// every later message once, in order.
func TestManyJoinsShareEncodings(t *testing.T) {
	const pages, messages = 1000, 20
	for name, after := range map[string]int64{"without a number": 0, "with the same number": 150} {
		t.Run(name, func(t *testing.T) {
			m := &memory{}
			m.fill(recentCount, store.MessagePosted)
			h, _ := process(t, m)
			join(t, h, "first", 0) // waits until the hub has read the log
			var joining sync.WaitGroup
			encodings := make([]*byte, pages)
			for i := range pages {
				joining.Go(func() {
					p := join(t, h, fmt.Sprint(i), after)
					var ids []int64
					for more := true; more || ids[len(ids)-1] < recentCount+messages; {
						frame, err := p.nextFrame(t)
						var e event
						if err != nil || json.Unmarshal(frame, &e) != nil {
							t.Errorf("page %d: %.80s, %v", i, frame, err)
							return
						}
						if encodings[i] == nil {
							encodings[i] = &frame[0]
						}
						ids, more = append(ids, e.ids()...), e.More
					}
					checkIDs(t, ids, ids[0], recentCount+messages-int(ids[0])+1)
				})
			}
			for i := range messages {
				send(t, h, ana, "hola", fmt.Sprint(i))
			}
			joining.Wait()
			distinct := make(map[*byte]bool)
			for _, e := range encodings {
				distinct[e] = true
			}
			if n := len(distinct); n > messages+1 {
				t.Errorf("%d encodings for %d changes of the log", n, messages)
			}
		})
	}
}

// A message is encoded once, however many pages get it.
func TestDeliveryIsEncodedOnce(t *testing.T) {
	h, _ := process(t, &memory{})
	var pages []*page
	for i := range 5000 {
		pages = append(pages, join(t, h, fmt.Sprint(i), 0))
		await(t, pages[i])
	}
	send(t, h, ana, "hola", "c")
	var first *byte
	for i, p := range pages {
		frame, err := p.nextFrame(t)
		if err != nil {
			t.Fatal(err)
		}
		if first == nil {
			first = &frame[0]
		}
		if &frame[0] != first {
			t.Fatalf("page %d has a frame of its own", i)
		}
	}
}

func TestTooFarBehindIsReset(t *testing.T) {
	m := &memory{}
	m.fill(maxBehind+10, store.MessagePosted)
	h, _ := process(t, m)
	p := join(t, h, "s", 5)
	e := await(t, p)
	if !e.Reset {
		t.Errorf("%+v", e)
	}
	ids := e.ids()
	for e.More {
		e = await(t, p)
		ids = append(ids, e.ids()...)
	}
	checkIDs(t, ids, maxBehind+10-recentCount+1, recentCount)
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
	h.deliver(entries, chatFrames(entries, 3, false, false))
	if e := await(t, l); !slices.Equal(e.ids(), []int64{3}) || e.Last != 3 {
		t.Errorf("delivered %v up to %d", e.ids(), e.Last)
	}
}

// A page that joins while the log has entries that the hub has not delivered yet gets them once.
func TestJoinWhileTheLogIsAhead(t *testing.T) {
	const delivered, all = 2 * heldCount, 2*heldCount + 7
	m := &memory{}
	m.fill(all, store.MessagePosted)
	log := newLog(m)
	running, stop := context.WithCancel(t.Context())
	defer stop()
	go func() { _ = log.Run(running) }()
	<-log.Ready()
	h := NewHub(m, log, unlimited)
	close(h.ready)
	h.deliver(m.entries[:delivered], nil)
	l := join(t, h, "s", 1)
	h.deliver(m.entries[delivered:], chatFrames(m.entries[delivered:], all, false, false))
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
		h.deliver(batch, chatFrames(batch, batch[0].N, false, false))
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
	if e, err := next(t, l); !errors.Is(err, ErrClosed) {
		t.Errorf("after the stop: %+v, %v", e, err)
	}
	if _, err := tryJoin(t.Context(), h, "s", 0); !errors.Is(err, ErrClosed) {
		t.Errorf("joining after the stop: %v", err)
	}
}

// Join waits until the recent messages are read. It fails while the store is down.
func TestStoreFailsAtStart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := &memory{down: true}
		m.fill(3, store.MessagePosted)
		h, stop := process(t, m)
		defer stop()
		ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
		defer cancel()
		if _, err := tryJoin(ctx, h, "s", 0); !errors.Is(err, store.ErrUnavailable) {
			t.Errorf("joining while the store fails: %v", err)
		}
		m.set(func() { m.down = false })
		if e := await(t, join(t, h, "s", 0)); len(e.ids()) != 3 {
			t.Errorf("%d messages after the store came back, want 3", len(e.ids()))
		}
	})
}
