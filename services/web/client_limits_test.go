package web

import (
	"bytes"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"os"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
	"unicode/utf16"

	"github.com/gorilla/websocket"
	"golang.org/x/time/rate"

	"balanza/services/chat"
	"balanza/services/limits"
	"balanza/services/store"
)

// rawFrame is a frame as a client sends it, with a mask of zeros.
func rawFrame(final bool, opcode byte, payload string) []byte {
	const finalBit, maskBit = 0x80, 0x80
	frame := []byte{opcode}
	if final {
		frame[0] |= finalBit
	}
	if len(payload) < 126 {
		frame = append(frame, maskBit|byte(len(payload)))
	} else {
		frame = binary.BigEndian.AppendUint16(append(frame, maskBit|126), uint16(len(payload)))
	}
	return append(append(frame, 0, 0, 0, 0), payload...)
}

const (
	opContinuation, opText, opBinary = 0, websocket.TextMessage, websocket.BinaryMessage
	opPing, opPong                   = websocket.PingMessage, websocket.PongMessage
)

// victim is a user who reads and writes beside an attacker, each round with a request and a message.
type victim struct {
	t      *testing.T
	p      *process
	cookie *http.Cookie
	page   page
	client *http.Client
	sent   int
}

func newVictim(t *testing.T, p *process) *victim {
	t.Helper()
	addUser(t, p.store, "victim@example.org")
	cookie := addSession(t, p.store, "victim@example.org")
	v := &victim{t: t, p: p, cookie: cookie, page: p.open(t, cookie), client: &http.Client{Transport: &http.Transport{}}}
	t.Cleanup(v.client.CloseIdleConnections)
	return v
}

// rounds returns the median time of GET / in so many rounds. None of the victim's requests and messages may fail.
func (v *victim) rounds(n int) time.Duration {
	v.t.Helper()
	var took []time.Duration
	for range n {
		began := time.Now()
		r, _ := http.NewRequest(http.MethodGet, v.p.url+"/", nil)
		r.AddCookie(v.cookie)
		a, body := send(v.t, v.client, r)
		took = append(took, time.Since(began))
		if a.StatusCode != http.StatusOK {
			v.t.Fatalf("the victim's GET /: %d: %.200s", a.StatusCode, body)
		}
		v.sent++
		v.page.write(v.t, fmt.Sprintf(`{"text":"hola","clientId":"v%d"}`, v.sent))
		v.page.next(v.t, "ack")
		time.Sleep(60 * time.Millisecond) // the victim stays below the limits
	}
	slices.Sort(took)
	return took[n/2]
}

// checkMedian logs the medians, and fails when the victim had to wait for the attack. On a shared machine a small ratio
// says nothing.
func checkMedian(t *testing.T, quiet, attacked time.Duration) {
	t.Helper()
	t.Logf("the victim's GET /: median %v without the attack, %v with it", quiet, attacked)
	if attacked > time.Second {
		t.Errorf("median %v, without the attack %v", attacked, quiet)
	}
}

// A page that sends too many frames of any kind is closed with 1008, whatever they hold, and is soon gone; another account's
// page is served as before.
func TestTooManyFrames(t *testing.T) {
	begin := rawFrame(false, opText, "")
	for name, flood := range map[string]struct{ first, frame []byte }{
		"not JSON":  {nil, rawFrame(true, opText, "{")},
		"messages":  {nil, rawFrame(true, opText, `{"text":"hola","clientId":"c"}`)},
		"long":      {nil, rawFrame(true, opText, strings.Repeat(" ", 2000))},
		"pings":     {nil, rawFrame(true, opPing, "")},
		"pongs":     {nil, rawFrame(true, opPong, "x")},
		"fragments": {begin, rawFrame(false, opContinuation, "")},
	} {
		t.Run(name, func(t *testing.T) {
			p := start(t)
			victim := newVictim(t, p)
			quiet := victim.rounds(15)
			addUser(t, p.store, "ana@example.org")
			ws := p.open(t, addSession(t, p.store, "ana@example.org"))
			ws.next(t, "chat")
			ws.SetCloseHandler(func(int, string) error { return nil }) // the usual one changes the deadline of the flood
			flooding := make(chan error, 1)
			go func() {
				conn := ws.UnderlyingConn()
				_ = conn.SetWriteDeadline(time.Now().Add(15 * time.Second))
				_, err := conn.Write(flood.first)
				for many := bytes.Repeat(flood.frame, 1000); err == nil; {
					_, err = conn.Write(many)
				}
				flooding <- err
			}()
			if code := ws.closeCode(t); code != websocket.ClosePolicyViolation {
				t.Errorf("closed with %d", code)
			}
			checkMedian(t, quiet, victim.rounds(15))
			if err := <-flooding; errors.Is(err, os.ErrDeadlineExceeded) {
				t.Error("the connection is still there")
			}
			eventually(t, "the websocket is still there", func() bool { return p.clients.count() == 1 })
		})
	}
}

// Frames at the allowed rate pass, in one piece and in many, however the bytes arrive.
func TestFrameCounter(t *testing.T) {
	var bytes []byte
	for _, length := range []int{0, 1, 125, 126, 1000, 65535} {
		bytes = append(bytes, rawFrame(true, opText, strings.Repeat("a", length))...)
	}
	const long = 70_000 // its length takes eight bytes
	bytes = append(bytes, 0x80|opText, 0x80|127)
	bytes = append(binary.BigEndian.AppendUint64(bytes, long), make([]byte, 4+long)...)
	bytes = append(bytes, 0x80|opText, 3, 'a', 'b', 'c') // without a mask
	const frames = 8
	for _, piece := range []int{1, 2, 3, 7, 1000, len(bytes)} {
		f := frameCounter{limit: rate.NewLimiter(0, frames)}
		for part := range slices.Chunk(bytes, piece) {
			if !f.count(part) {
				t.Fatalf("in pieces of %d bytes there are too many frames", piece)
			}
		}
		if f.count(bytes[:1]) {
			t.Errorf("in pieces of %d bytes there are fewer than %d frames", piece, frames)
		}
	}
}

// A frame that is not what RFC 6455 and the site take is neither acknowledged nor stored.
func TestUnacceptableFrames(t *testing.T) {
	p := start(t)
	addUser(t, p.store, "ana@example.org")
	cookie := addSession(t, p.store, "ana@example.org")
	for name, c := range map[string]struct {
		opcode byte
		frame  string
		code   int
	}{
		"Latin-1":        {opText, "{\"text\":\"caf\xe9\",\"clientId\":\"a\"}", websocket.CloseInvalidFramePayloadData},
		"half an emoji":  {opText, "{\"text\":\"\xf0\x9f\",\"clientId\":\"a\"}", websocket.CloseInvalidFramePayloadData},
		"in the id":      {opText, "{\"text\":\"a\",\"clientId\":\"\xff\"}", websocket.CloseInvalidFramePayloadData},
		"binary":         {opBinary, `{"text":"a","clientId":"a"}`, websocket.CloseUnsupportedData},
		"too long":       {opText, `{"text":"a","clientId":"a"}` + strings.Repeat(" ", maxFrame), websocket.CloseMessageTooBig},
		"too long parts": {opText, strings.Repeat(" ", maxFrame+1), websocket.CloseMessageTooBig},
	} {
		ws := p.open(t, cookie)
		ws.next(t, "chat")
		if _, err := ws.UnderlyingConn().Write(rawFrame(true, c.opcode, c.frame)); err != nil {
			t.Fatal(err)
		}
		if code := ws.closeCode(t); code != c.code {
			t.Errorf("%s: closed with %d, want %d", name, code, c.code)
		}
	}
	ws := p.open(t, cookie)
	for _, frame := range []string{
		`{"text":"\ud800","clientId":"a"}`, `{"text":"\udc00\ud800","clientId":"a"}`, `{"text":"a\u0000b","clientId":"a"}`,
		`{"text":"a","clientId":"\ud83d"}`, `{"text":"a","clientId":"a"} {}`, `{"text":"a","text":"b","clientId":"a"}`,
		`{"text":"a","clientId":"a",}`, `null`, ``,
	} {
		ws.write(t, frame)
		if e := ws.next(t, "error"); e.Codigo != codeInvalid {
			t.Errorf("%s: %+v", frame, e)
		}
	}
	if entries, err := p.store.After(t.Context(), 0, 10); err != nil || len(entries) > 0 {
		t.Errorf("stored: %v, %v", entries, err)
	}
}

// The longest message is taken in every spelling of JSON.
func TestLongestMessageInAnySpelling(t *testing.T) {
	p := start(t)
	addUser(t, p.store, "ana@example.org")
	ws := p.open(t, addSession(t, p.store, "ana@example.org"))
	escape := func(text string) string {
		var b strings.Builder
		for _, unit := range utf16.Encode([]rune(text)) {
			fmt.Fprintf(&b, `\u%04X`, unit)
		}
		return b.String()
	}
	id := strings.Repeat("c", chat.MaxClientID)
	for i, text := range []string{strings.Repeat("🦉", chat.MaxText), strings.Repeat("ñ", chat.MaxText)} {
		ws.write(t, fmt.Sprintf(`{"%s":"%s","%s":"%s","%s":"%s"}`, escape("type"), escape("message"), escape("text"), escape(text),
			escape("clientId"), escape(id[1:]+fmt.Sprint(i))))
		n := int64(ws.next(t, "ack").ID.(float64))
		stored, err := p.store.After(t.Context(), n-1, 1)
		if err != nil || stored[0].Message.Text != text {
			t.Errorf("stored %+v, %v", stored, err)
		}
	}
}

// An account's messages in a minute are limited over all processes, also one that has just started. A message that the limit
// rejects is not stored, a repeated one is none more, and other accounts are not affected.
func TestMessagesPerMinute(t *testing.T) {
	const limit = 6
	folder, config := t.TempDir(), Config{Limits: limited(func(l *limits.Limits) { l.Messages = limit })}
	one, other := startProcess(t, folder, config), startProcess(t, folder, config)
	addUser(t, one.store, "ana@example.org")
	cookie := addSession(t, one.store, "ana@example.org")
	victim := newVictim(t, one)
	pages := []page{one.open(t, cookie), other.open(t, cookie)}
	message := func(i int) string { return fmt.Sprintf(`{"text":"%d","clientId":"c%d"}`, i, i) }
	for i := range limit {
		sender, observer := pages[i%2], pages[(i+1)%2]
		sender.write(t, message(i))
		sender.next(t, "ack")
		for !strings.Contains(fmt.Sprint(observer.next(t, "chat").Normalised), fmt.Sprintf("{%d ", i)) {
		} // the other process has counted it
	}
	late := startProcess(t, folder, config)
	for _, ws := range append(pages, late.open(t, cookie)) {
		ws.write(t, message(limit))
		if e := ws.next(t, "error"); e.Codigo != codeTooMany || e.ClientID != fmt.Sprint("c", limit) || e.Espera < 1 || e.Espera > 60 {
			t.Errorf("%+v", e)
		}
		for i := range limit {
			ws.write(t, message(i))
			ws.next(t, "ack")
		}
	}
	victim.rounds(limit)
	entries, err := one.store.After(t.Context(), 0, 100)
	if err != nil || len(entries) != 2*limit {
		t.Errorf("%d entries are stored, %v", len(entries), err)
	}
}

// A page that sends more messages at once than the limit has the others rejected, though none is stored yet.
func TestMessagesAtOnce(t *testing.T) {
	const limit, sent = 5, 12
	p := startProcess(t, t.TempDir(), Config{Limits: limited(func(l *limits.Limits) { l.Messages = limit })})
	addUser(t, p.store, "ana@example.org")
	ws := p.open(t, addSession(t, p.store, "ana@example.org"))
	for i := range sent {
		ws.write(t, fmt.Sprintf(`{"text":"a","clientId":"c%d"}`, i))
	}
	acked, rejected := 0, 0
	for acked+rejected < sent {
		var f serverFrame
		if err := ws.ReadJSON(&f); err != nil {
			t.Fatal(err)
		}
		switch {
		case f.Type == "ack":
			acked++
		case f.Type == "error" && f.Codigo == codeTooMany:
			rejected++
		}
	}
	if acked != limit {
		t.Errorf("%d of %d messages are acknowledged", acked, sent)
	}
}

// rejected reads what a websocket gets that is not admitted, and fails the test when it is admitted.
func (p page) rejected(t *testing.T) {
	t.Helper()
	if e := p.next(t, "error"); e.Codigo != codeTooMany || e.Espera < 1 || e.Descripcion == "" {
		t.Errorf("%+v", e)
	}
	if code := p.closeCode(t); code != websocket.CloseTryAgainLater {
		t.Errorf("closed with %d", code)
	}
}

// eventually fails the test unless a condition becomes true soon.
func eventually(t *testing.T, what string, condition func() bool) {
	t.Helper()
	for deadline := time.Now().Add(20 * time.Second); !condition(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal(what)
		}
	}
}

// held returns how many websockets of an account all processes have according to the store.
func held(t *testing.T, st store.Store, email string) int {
	t.Helper()
	totals, err := st.Hold(t.Context(), "test", map[string]int{email: 0}, time.Now(), time.Now())
	if err != nil {
		t.Fatal(err)
	}
	return totals[email]
}

// An account's open websockets are limited over all processes. One that is rejected leaves nothing behind; other accounts
// are not affected, and each that closes makes room for another.
func TestWebsocketsPerAccount(t *testing.T) {
	const limit, email = 4, "ana@example.org"
	folder, config := t.TempDir(), Config{Limits: limited(func(l *limits.Limits) { l.Websockets = limit })}
	one, other := startProcess(t, folder, config), startProcess(t, folder, config)
	victim := newVictim(t, other)
	quiet := victim.rounds(15)
	addUser(t, one.store, email)
	cookie := addSession(t, one.store, email)
	var open []page
	for i := range limit {
		open = append(open, []*process{one, other}[i%2].open(t, cookie))
		open[i].next(t, "chat")
	}
	eventually(t, "the store has another number", func() bool { return held(t, one.store, email) == limit })
	one.open(t, cookie).rejected(t)

	// Many at the same time, at the process that has room for some as far as it knows itself.
	var attempts sync.WaitGroup
	for range 100 {
		attempts.Go(func() {
			if conn, _ := other.dial(t, cookie, other.url, ""); conn != nil {
				page{conn}.rejected(t)
				conn.Close()
			}
		})
	}
	checkMedian(t, quiet, victim.rounds(15))
	attempts.Wait()
	eventually(t, "a number stays in the store", func() bool { return held(t, one.store, email) == limit })
	stacks := make([]byte, 4<<20)
	eventually(t, "goroutines stay", func() bool {
		return strings.Count(string(stacks[:runtime.Stack(stacks, true)]), "web.(*client).serve(") <= limit+1
	})

	open[0].Close()
	for _, ws := range open[1:] {
		ws.write(t, `{"text":"x"}`)
		ws.next(t, "error") // it is still open
	}
	again := other.open(t, cookie)
	again.next(t, "chat")
}

// What a killed process had open counts until its time is over, and what a process stops with does not count.
func TestWebsocketsOfEndedProcesses(t *testing.T) {
	const limit, email = 3, "ana@example.org"
	folder, config := t.TempDir(), Config{Limits: limited(func(l *limits.Limits) { l.Websockets = limit })}
	old := startProcess(t, folder, config)
	addUser(t, old.store, email)
	cookie := addSession(t, old.store, email)
	var pages []page
	for range limit {
		pages = append(pages, old.open(t, cookie))
		pages[len(pages)-1].next(t, "chat")
	}
	next := startProcess(t, folder, config)
	old.drain()
	var returning sync.WaitGroup
	for _, ws := range pages {
		returning.Go(func() {
			if code := ws.closeCode(t); code != websocket.CloseServiceRestart {
				t.Errorf("closed with %d", code)
			}
			next.open(t, cookie).next(t, "chat") // at once, sooner than a page
		})
	}
	returning.Wait()
	old.end(t)

	now := time.Now()
	if _, err := next.store.Hold(t.Context(), "killed", map[string]int{email: 10}, now, now.Add(6*time.Second)); err != nil {
		t.Fatal(err)
	}
	for _, c := range next.clients.all() {
		c.end(websocket.CloseNormalClosure, "")
	}
	eventually(t, "websockets stay", func() bool { return held(t, next.store, email) == 10 })
	next.open(t, cookie).rejected(t)
	time.Sleep(time.Until(now.Add(6 * time.Second)))
	next.open(t, cookie).next(t, "chat")
}

// noHolds is a store whose Hold does not answer while it is down.
type noHolds struct {
	store.Store
	down  atomic.Bool
	calls atomic.Int64
}

func (s *noHolds) wrap(inner store.Store) store.Store {
	s.Store = inner
	return s
}

func (s *noHolds) Hold(
	ctx context.Context, holder string, counts map[string]int, now, expires time.Time,
) (map[string]int, error) {
	s.calls.Add(1)
	if s.down.Load() {
		return nil, store.ErrUnavailable
	}
	return s.Store.Hold(ctx, holder, counts, now, expires)
}

// While the store does not answer, a process counts its own websockets, and afterwards it writes their number.
func TestWebsocketsWithoutTheStore(t *testing.T) {
	const limit, email = 2, "ana@example.org"
	st := &noHolds{}
	st.down.Store(true)
	p := startProcess(t, t.TempDir(), Config{Store: st, Limits: limited(func(l *limits.Limits) { l.Websockets = limit })})
	addUser(t, p.store, email)
	cookie := addSession(t, p.store, email)
	for range limit {
		p.open(t, cookie).next(t, "chat")
	}
	p.open(t, cookie).rejected(t)
	st.down.Store(false)
	eventually(t, "the number is not written", func() bool { return held(t, st.Store, email) == limit })
}

// Thousands of websockets that come at once, after a reload, share the calls of the store.
func TestManyWebsocketsShareCalls(t *testing.T) {
	const count = 2000
	st := &noHolds{}
	p := startProcess(t, t.TempDir(), Config{Store: st})
	began := time.Now()
	var admitted sync.WaitGroup
	for i := range count {
		admitted.Go(func() {
			if err := p.sockets.admit(fmt.Sprintf("%d@example.org", i)); err != nil {
				t.Error(err)
			}
		})
	}
	admitted.Wait()
	calls := st.calls.Load()
	t.Logf("%d websockets admitted in %v with %d calls", count, time.Since(began), calls)
	if calls > count/20 {
		t.Errorf("%d calls for %d websockets", calls, count)
	}
	began = time.Now()
	p.sockets.touchAll()
	p.sockets.writeChanges(t.Context())
	t.Logf("all numbers are renewed in %v", time.Since(began))
}

// fill appends n messages of an author, so few at a time that a slow disk stores them within CallTimeout.
func fill(t *testing.T, st store.Store, author string, n int, text func(i int) string) {
	t.Helper()
	var entries []store.Entry
	for i := range n {
		entries = append(entries, store.Entry{Kind: store.MessagePosted, Author: author, ClientID: fmt.Sprint(i),
			Message: &store.Message{Author: store.Author{ID: author}, Text: text(i), Time: time.Now()}})
	}
	for batch := range slices.Chunk(entries, 100) {
		if _, err := st.Append(t.Context(), batch); err != nil {
			t.Fatal(err)
		}
	}
}

// Pages that join again and again from an old entry get the recent messages when the account's budget is used up; at last
// they must wait. Another account's requests are answered as before, and its page joins with all that it missed.
func TestLoopingJoins(t *testing.T) {
	const entries, attackers, email = 19_000, 30, "ana@example.org"
	folder := t.TempDir()
	filler := startProcess(t, folder, Config{})
	fill(t, filler.store, "old@example.org", entries, func(int) string { return strings.Repeat("hola ", 20) })
	p := startProcess(t, folder, Config{})
	victim := newVictim(t, p)
	quiet := victim.rounds(15)
	addUser(t, p.store, email)
	cookie := addSession(t, p.store, email)
	ctx, stop := context.WithCancel(t.Context())
	var looping sync.WaitGroup
	var joins atomic.Int64
	for range attackers {
		looping.Go(func() {
			for ctx.Err() == nil {
				if conn, _ := p.dial(t, cookie, p.url, fmt.Sprintf("?after=%d", 1+rand.IntN(100))); conn != nil {
					_ = conn.SetReadDeadline(time.Now().Add(time.Second))
					for range 1 + rand.IntN(40) {
						if _, _, err := conn.ReadMessage(); err != nil {
							break
						}
					}
					conn.Close()
					joins.Add(1)
				}
			}
		})
	}
	attacked := victim.rounds(30)
	returning := p.openAfter(t, victim.cookie, 1)
	count := 0
	for more := true; more; {
		f := returning.next(t, "chat")
		count, more = count+len(f.Normalised.Entities.Messages), f.More
	}
	stop()
	looping.Wait()
	t.Logf("%d joins", joins.Load())
	checkMedian(t, quiet, attacked)
	if count < entries-1 {
		t.Errorf("the victim's page got %d messages", count)
	}
}

// A page of an account whose budget for joins is used up gets the recent messages in place of what it has.
func TestJoinsBudget(t *testing.T) {
	p := startProcess(t, t.TempDir(), Config{Limits: limited(func(l *limits.Limits) { l.Websockets = 1 })})
	const email = "ana@example.org"
	addUser(t, p.store, email)
	spend := func(entries int64) {
		t.Helper()
		for range 1000 {
			if !p.sockets.spend(email, entries) {
				return
			}
		}
		t.Fatal("the budget has no end")
	}
	spend(1000)
	cookie := addSession(t, p.store, email)
	fill(t, p.store, "b", 500, func(int) string { return "hola" })
	eventually(t, "the hub is behind", func() bool { n, err := p.hub.Behind(t.Context(), 1); return err == nil && n == 499 })
	spend(300)
	eventually(t, "no budget", func() bool { // for the recent messages
		p.sockets.mu.Lock()
		defer p.sockets.mu.Unlock()
		return p.sockets.account(email).joins.Tokens() >= joinCost
	})
	ws := p.openAfter(t, cookie, 1)
	if f := ws.next(t, "chat"); !f.Reset {
		t.Errorf("%+v", f)
	}
	ws.Close()
	spend(0)
	p.openAfter(t, cookie, 1).rejected(t)
}

// A page that takes nothing is cut after ClientTimeout, however much waits for it.
func TestPageThatTakesNothing(t *testing.T) {
	p := startProcess(t, t.TempDir(), Config{Limits: limited(func(l *limits.Limits) { l.ClientTimeout = time.Second })})
	const email = "ana@example.org"
	addUser(t, p.store, email)
	cookie := addSession(t, p.store, email)
	p.openSlowly(t, cookie)
	reading := p.open(t, cookie)
	go func() {
		for {
			if _, _, err := reading.ReadMessage(); err != nil {
				return
			}
		}
	}()
	for i := range 100 { // too few for the queue to be full
		_, err := p.config.Log.Append(t.Context(), store.Entry{Kind: store.MessagePosted, Author: "b", ClientID: fmt.Sprint(i),
			Message: &store.Message{Author: store.Author{ID: "b"}, Text: strings.Repeat("🦉", 1000), Time: time.Now()}})
		if err != nil {
			t.Fatal(err)
		}
	}
	eventually(t, "the page that reads nothing is still there", func() bool { return p.clients.count() == 1 })
}

// GET /api/mensajes brings the messages before a number in the normalised form, page by page.
func TestHistoryPages(t *testing.T) {
	const email, count = "ana@example.org", 450
	p := start(t)
	addUser(t, p.store, email)
	cookie := addSession(t, p.store, email)
	fill(t, p.store, email, count, func(i int) string { return fmt.Sprint(i + 1) })
	eventually(t, "the hub is behind", func() bool { n, err := p.hub.Behind(t.Context(), 1); return err == nil && n == count-1 })

	var sizes []int
	next := int64(count + 1)
	for path := "/api/mensajes?before=451&limit=200"; path != ""; {
		a := p.send(t, call{path: path, cookie: cookie, header: acceptJSON}).want(t, http.StatusOK)
		var page chat.Normalised
		if err := json.Unmarshal([]byte(a.body), &page); err != nil {
			t.Fatal(err)
		}
		ids := page.Entities.Chats["mensajes"].Messages
		sizes = append(sizes, len(ids))
		for _, id := range slices.Backward(ids) {
			next--
			if m := page.Entities.Messages[fmt.Sprint(id)]; id != next || m.Text != fmt.Sprint(id) || m.Author != email {
				t.Fatalf("%d is %+v, want number %d", id, m, next)
			}
		}
		link := a.Header.Get("Link")
		path = strings.TrimSuffix(strings.TrimPrefix(link, "<"), `>; rel="next"`)
	}
	if !slices.Equal(sizes, []int{200, 200, 50}) || next != 1 {
		t.Errorf("pages of %v, down to %d", sizes, next)
	}
	a := p.send(t, call{path: "/api/mensajes", cookie: cookie}).want(t, http.StatusOK)
	if n := strings.Count(a.body, `"fecha"`); n != defaultHistory || a.Header.Get("Cache-Control") != "no-store" {
		t.Errorf("without parameters: %d messages, %v", n, a.Header)
	}

	for query, field := range map[string]string{
		"before=0": "before", "before=-1": "before", "before=x": "before", "before=": "before", "before=1.5": "before",
		"before=99999999999999999999": "before", "before=1&before=2": "before",
		"limit=0": "limit", "limit=201": "limit", "limit=0x1": "limit", "before=5&limit=": "limit", "limit=1&limit=2": "limit",
	} {
		e := p.send(t, call{path: "/api/mensajes?" + query, cookie: cookie, header: acceptJSON}).want(t, http.StatusBadRequest).jsonError(t)
		if e.Campo != field || e.Error != codeInvalid {
			t.Errorf("%s: %+v", query, e)
		}
	}
	p.send(t, call{path: "/api/mensajes", header: acceptJSON}).want(t, http.StatusUnauthorized)
}
