package web

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/gorilla/websocket"

	"balanza/services/limits"
	"balanza/services/store"
)

// limited returns the default limits with changes.
func limited(change func(*limits.Limits)) limits.Limits {
	l := limits.Default()
	change(&l)
	return l
}

// A message sent to one process is acknowledged there and reaches a page of another, once, in order, with its author.
func TestChat(t *testing.T) {
	folder := t.TempDir()
	config := Config{Limits: limited(func(l *limits.Limits) { l.Frames = 100 })}
	one, other := startProcess(t, folder, config), startProcess(t, folder, config)
	addUser(t, one.store, "ana@example.org")
	cookie := addSession(t, one.store, "ana@example.org")
	sender, receiver := one.open(t, cookie), other.open(t, cookie)
	sender.next(t, "chat")
	receiver.next(t, "chat")

	const n = 20
	for i := range n {
		frame := fmt.Sprintf(`{"type":"message","text":"%d","clientId":"c%d"}`, i, i)
		sender.write(t, frame)
		sender.write(t, frame) // as a page repeats a message that was not acknowledged
	}
	sender.write(t, `{"text":"plain","clientId":"p"}`)
	ids := make(map[string]any)
	for range 2*n + 1 {
		ack := sender.next(t, "ack")
		if known, twice := ids[ack.ClientID]; twice && known != ack.ID {
			t.Errorf("%s is both %v and %v", ack.ClientID, known, ack.ID)
		}
		ids[ack.ClientID] = ack.ID
	}
	var received []string
	var last int64
	for len(received) < n+1 {
		f := receiver.next(t, "chat")
		for _, id := range f.Normalised.Entities.Chats["mensajes"].Mensajes {
			m := f.Normalised.Entities.Messages[fmt.Sprint(id)]
			if m.Author != "ana@example.org" {
				t.Errorf("%+v", m)
			}
			received = append(received, m.Text)
		}
		last = f.Last
	}
	for i, text := range append(received[:n:n], "") {
		if i < n && text != fmt.Sprint(i) {
			t.Fatalf("received %v", received)
		}
	}
	if received[n] != "plain" {
		t.Errorf("received %v", received)
	}

	conn, a := one.dial(t, cookie, one.url, "?after=yesterday")
	if conn != nil || a == nil || a.StatusCode != http.StatusBadRequest {
		t.Errorf("after yesterday: %v", a)
	}

	// A page that names its last entry gets the later ones, another page gets all.
	returning, first := other.openAfter(t, cookie, last-1), one.open(t, cookie)
	if f := returning.next(t, "chat"); len(f.Normalised.Entities.Messages) != 1 {
		t.Errorf("%+v", f)
	}
	if f := first.next(t, "chat"); len(f.Normalised.Entities.Messages) != n+1 {
		t.Errorf("%+v", f)
	}
}

// A change of a product on one process reaches a page of another.
func TestProductEvents(t *testing.T) {
	folder := t.TempDir()
	one, other := startProcess(t, folder, Config{}), startProcess(t, folder, Config{})
	addUser(t, one.store, "ana@example.org")
	cookie := addSession(t, one.store, "ana@example.org")
	ws := other.open(t, cookie)
	ws.next(t, "chat")
	a := one.send(t, call{method: "POST", path: "/api/productos", cookie: cookie,
		json: `{"nombre":"Silla","precio":1,"foto":"https://example.org/a.png"}`}).want(t, http.StatusCreated)
	location := a.Header.Get("Location")
	f := ws.next(t, "product")
	if f.Product == nil || f.Product.Nombre != "Silla" || location != "/api/productos/"+f.Product.ID {
		t.Errorf("%+v", f)
	}
	one.send(t, call{method: "DELETE", path: location, cookie: cookie}).want(t, http.StatusNoContent)
	if f := ws.next(t, "product"); f.Product != nil || "/api/productos/"+f.ID.(string) != location {
		t.Errorf("%+v", f)
	}
}

// A page on a slow line gets the acknowledgement of its message while many long messages are still on the way, and in the
// end all of them.
func TestAcknowledgementOvertakesMessages(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("only Linux limits what waits in the kernel")
	}
	p := startProcess(t, t.TempDir(), Config{Limits: limited(func(l *limits.Limits) { l.Messages = 1000 })})
	const email, count = "ana@example.org", 100
	addUser(t, p.store, email)
	var entries []store.Entry
	for i := range count {
		entries = append(entries, store.Entry{Kind: store.MessagePosted, Author: email, ClientID: fmt.Sprint(i),
			Message: &store.Message{Author: store.Author{ID: email}, Text: strings.Repeat("🦉", 1000), Time: time.Now()}})
	}
	for _, e := range entries {
		if _, err := p.config.Log.Append(t.Context(), e); err != nil {
			t.Fatal(err)
		}
	}
	cookie := addSession(t, p.store, email)
	observer := p.open(t, cookie)
	slow := p.openSlowly(t, cookie)
	for more := true; more; {
		more = observer.next(t, "chat").More
	}
	slow.write(t, `{"text":"hola","clientId":"c"}`)
	observer.next(t, "chat") // it is stored now

	var before, received int
	acknowledged := false
	for received < count+1 {
		var f serverFrame
		if err := slow.ReadJSON(&f); err != nil {
			t.Fatal(err)
		}
		received += len(f.Normalised.Entities.Messages)
		acknowledged = acknowledged || f.Type == "ack"
		if !acknowledged {
			before = received
		}
	}
	if !acknowledged || before > count/2 {
		t.Errorf("acknowledged %v, after %d of %d messages", acknowledged, before, count)
	}
}

// A page to which nothing is sent hears a frame and a ping, again and again.
func TestIdlePageHearsTheServer(t *testing.T) {
	p := start(t)
	addUser(t, p.store, "ana@example.org")
	ws := p.open(t, addSession(t, p.store, "ana@example.org"))
	ws.next(t, "chat")
	pings := 0
	answer := ws.PingHandler()
	ws.SetPingHandler(func(data string) error { pings++; return answer(data) })
	for range 2 {
		p.clients.all()[0].sendAlive() // as its timer does
		ws.next(t, "alive")
	}
	p.clients.all()[0].sendAlive()
	ws.next(t, "alive")
	if pings < 2 {
		t.Errorf("%d pings", pings)
	}
	if aliveInterval > 15*time.Second {
		t.Error("a page waits for 25 s only, and a line may delay a frame")
	}
}

// An idle websocket has no goroutine but its reader.
func TestIdleWebsocketHasOneGoroutine(t *testing.T) {
	const count = 20
	p := start(t)
	addUser(t, p.store, "ana@example.org")
	cookie := addSession(t, p.store, "ana@example.org")
	var pages []page
	for range count {
		pages = append(pages, p.open(t, cookie))
	}
	for _, ws := range pages {
		ws.next(t, "chat")
	}
	stacks := make([]byte, 4<<20)
	deadline := time.Now().Add(20 * time.Second)
	for {
		text := string(stacks[:runtime.Stack(stacks, true)])
		readers, writers := strings.Count(text, "web.(*client).serve("), strings.Count(text, "web.(*client).write(")
		requests := strings.Count(text, "fasthttp.hijackConnHandler(")
		if readers == count && writers == 0 && requests == 0 {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("%d readers, %d writers, %d requests", readers, writers, requests)
		}
		time.Sleep(10 * time.Millisecond)
	}
}

// Invalid frames are answered with an error.
func TestInvalidFrames(t *testing.T) {
	p := start(t)
	addUser(t, p.store, "ana@example.org")
	cookie := addSession(t, p.store, "ana@example.org")
	ws := p.open(t, cookie)
	for _, frame := range []string{
		`not JSON`, `[]`, `{"text":{"$ne":1},"clientId":"a"}`, `{"type":"shout","clientId":"a"}`, `{"text":"a"}`,
		`{"text":" ","clientId":"a"}`, `{"text":"` + strings.Repeat("a", 1001) + `","clientId":"a"}`,
		`{"text":"a","clientId":"` + strings.Repeat("a", 65) + `"}`,
	} {
		ws.write(t, frame)
		if e := ws.next(t, "error"); e.Codigo != codeInvalid || e.Descripcion == "" {
			t.Errorf("%s: %+v", frame, e)
		}
	}
	// The longest message in bytes: four for each character.
	ws.write(t, `{"text":"`+strings.Repeat("🦉", 1000)+`","clientId":"owls"}`)
	ws.next(t, "ack")
	ws.write(t, strings.Repeat("a", maxFrame+1))
	if code := ws.closeCode(t); code != websocket.CloseMessageTooBig {
		t.Errorf("closed with %d", code)
	}
}

// A drain closes all websockets with 1012, and accepts no new ones.
func TestDrainClosesWebsockets(t *testing.T) {
	folder := t.TempDir()
	p := startProcess(t, folder, Config{DrainDelay: time.Second})
	addUser(t, p.store, "ana@example.org")
	cookie := addSession(t, p.store, "ana@example.org")
	var open []page
	for range 3 {
		ws := p.open(t, cookie)
		ws.next(t, "chat")
		open = append(open, ws)
	}
	p.drain()
	for _, ws := range open {
		if code := ws.closeCode(t); code != websocket.CloseServiceRestart {
			t.Errorf("closed with %d", code)
		}
	}
	if conn, a := p.dial(t, cookie, p.url, ""); conn != nil || a != nil && a.StatusCode != http.StatusServiceUnavailable {
		t.Errorf("a new page: %v", a)
	}
	p.end(t)
	if n := p.clients.count(); n != 0 {
		t.Errorf("%d are open", n)
	}
}

// panickingStore is a store whose TouchSession panics once for each time that armed is set.
type panickingStore struct {
	store.Store
	armed atomic.Bool
}

func (s *panickingStore) wrap(inner store.Store) store.Store {
	s.Store = inner
	return s
}

func (s *panickingStore) TouchSession(ctx context.Context, id string, expires time.Time) error {
	if s.armed.Swap(false) {
		panic("a test")
	}
	return s.Store.TouchSession(ctx, id, expires)
}

// panickingListener accepts connections on which a Write panics once, after their address was stored in armed.
type panickingListener struct {
	net.Listener
	armed atomic.Value // the client's address as a string
}

func (l *panickingListener) Accept() (net.Conn, error) {
	conn, err := l.Listener.Accept()
	return panickingConn{conn, l}, err
}

type panickingConn struct {
	net.Conn
	listener *panickingListener
}

func (c panickingConn) Write(b []byte) (int, error) {
	if c.listener.armed.CompareAndSwap(c.RemoteAddr().String(), "") {
		panic("a test")
	}
	return c.Conn.Write(b)
}

// A panic in a goroutine that a websocket has started, the writer or one that stores a message, ends this websocket, and
// neither the process nor others.
func TestPanicEndsOneWebsocket(t *testing.T) {
	st, ln := &panickingStore{}, &panickingListener{Listener: listen(t)}
	p := startOn(t, t.TempDir(), Config{Store: st}, ln)
	for goroutine, arm := range map[string]func(page){
		"storing": func(page) { st.armed.Store(true) },
		"writer":  func(broken page) { ln.armed.Store(broken.LocalAddr().String()) },
	} {
		t.Run(goroutine, func(t *testing.T) {
			var pages []page
			for _, name := range []string{"ana", "beto"} {
				email := name + "@" + goroutine + ".example"
				addUser(t, p.store, email)
				pages = append(pages, p.open(t, addSession(t, p.store, email)))
				pages[len(pages)-1].next(t, "chat")
			}
			for _, c := range p.clients.all() {
				c.touching.Lock()
				c.session.Expires = time.Now() // so that its next message extends the session
				c.touching.Unlock()
			}

			arm(pages[0])
			pages[0].write(t, `{"text":"a","clientId":"a"}`)
			if code := pages[0].closeCode(t); code != websocket.CloseInternalServerErr {
				t.Errorf("closed with %d", code)
			}
			pages[1].write(t, `{"text":"b","clientId":"b"}`)
			pages[1].next(t, "ack")
		})
	}
}
