package web

import (
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/fasthttp/websocket"
)

// TestChat: what is said on one process is acknowledged there and told on another, once, in order, with its author.
func TestChat(t *testing.T) {
	folder := t.TempDir()
	one, other := startProcess(t, folder, Config{}), startProcess(t, folder, Config{})
	addUser(t, one.store, "ana@example.org")
	cookie := addSession(t, one.store, "ana@example.org")
	speaker, listener := one.open(t, cookie), other.open(t, cookie)
	speaker.next(t, "chat")
	listener.next(t, "chat")

	const n = 20
	for i := range n {
		frame := fmt.Sprintf(`{"type":"message","text":"%d","clientId":"c%d"}`, i, i)
		speaker.say(t, frame)
		speaker.say(t, frame) // once more, as a page does that got no acknowledgement
	}
	speaker.say(t, `{"text":"plain","clientId":"p"}`)
	ids := make(map[string]any)
	for range 2*n + 1 {
		ack := speaker.next(t, "ack")
		if known, twice := ids[ack.ClientID]; twice && known != ack.ID {
			t.Errorf("%s is both %v and %v", ack.ClientID, known, ack.ID)
		}
		ids[ack.ClientID] = ack.ID
	}
	var heard []string
	var last int64
	for len(heard) < n+1 {
		f := listener.next(t, "chat")
		for _, id := range f.Normalised.Entities.Chats["mensajes"].Mensajes {
			m := f.Normalised.Entities.Messages[fmt.Sprint(id)]
			if m.Author != "ana@example.org" {
				t.Errorf("%+v", m)
			}
			heard = append(heard, m.Text)
		}
		last = f.Last
	}
	for i, text := range append(heard[:n:n], "") {
		if i < n && text != fmt.Sprint(i) {
			t.Fatalf("heard %v", heard)
		}
	}
	if heard[n] != "plain" {
		t.Errorf("heard %v", heard)
	}

	conn, a := one.dial(t, cookie, one.url, "?after=yesterday")
	if conn != nil || a == nil || a.StatusCode != http.StatusBadRequest {
		t.Errorf("after yesterday: %v", a)
	}

	// Who was away gets what came after, who says nothing gets all.
	back, quiet := other.openAfter(t, cookie, last-1), one.open(t, cookie)
	if f := back.next(t, "chat"); len(f.Normalised.Entities.Messages) != 1 {
		t.Errorf("%+v", f)
	}
	if f := quiet.next(t, "chat"); len(f.Normalised.Entities.Messages) != n+1 {
		t.Errorf("%+v", f)
	}
}

// TestProductEvents: a change made on one process reaches a page on another.
func TestProductEvents(t *testing.T) {
	folder := t.TempDir()
	one, other := startProcess(t, folder, Config{}), startProcess(t, folder, Config{})
	addUser(t, one.store, "ana@example.org")
	cookie := addSession(t, one.store, "ana@example.org")
	ws := other.open(t, cookie)
	ws.next(t, "chat")
	a := one.send(t, call{method: "POST", path: "/api/productos", cookie: cookie,
		json: `{"nombre":"Silla","precio":1,"foto":"https://example.org/a.png"}`}).want(t, http.StatusCreated)
	place := a.Header.Get("Location")
	f := ws.next(t, "product")
	if f.Product == nil || f.Product.Nombre != "Silla" || place != "/api/productos/"+f.Product.ID {
		t.Errorf("%+v", f)
	}
	one.send(t, call{method: "DELETE", path: place, cookie: cookie}).want(t, http.StatusNoContent)
	if f := ws.next(t, "product"); f.Product != nil || "/api/productos/"+f.ID.(string) != place {
		t.Errorf("%+v", f)
	}
}

// TestFrames: what a page may not send, and that it is told so.
func TestFrames(t *testing.T) {
	p := start(t)
	addUser(t, p.store, "ana@example.org")
	cookie := addSession(t, p.store, "ana@example.org")
	ws := p.open(t, cookie)
	for _, frame := range []string{
		`not JSON`, `[]`, `{"text":{"$ne":1},"clientId":"a"}`, `{"type":"shout","clientId":"a"}`, `{"text":"a"}`,
		`{"text":" ","clientId":"a"}`, `{"text":"` + strings.Repeat("a", 1001) + `","clientId":"a"}`,
		`{"text":"a","clientId":"` + strings.Repeat("a", 65) + `"}`,
	} {
		ws.say(t, frame)
		if e := ws.next(t, "error"); e.Codigo != codeInvalid || e.Descripcion == "" {
			t.Errorf("%s: %+v", frame, e)
		}
	}
	// Four bytes a character: the longest message there is.
	ws.say(t, `{"text":"`+strings.Repeat("🦉", 1000)+`","clientId":"owls"}`)
	ws.next(t, "ack")
	ws.say(t, strings.Repeat("a", largestFrame+1))
	if code := ws.closed(t); code != websocket.CloseMessageTooBig {
		t.Errorf("closed with %d", code)
	}
}

// TestTooManyFrames: who sends faster than people write is slowed down, not cut off.
func TestTooManyFrames(t *testing.T) {
	p := start(t)
	addUser(t, p.store, "ana@example.org")
	ws := p.open(t, addSession(t, p.store, "ana@example.org"))
	go func() {
		for range 3 * framesAtOnce {
			if ws.WriteMessage(websocket.TextMessage, []byte(`{"clientId":"x","type":"nonsense"}`)) != nil {
				return
			}
		}
	}()
	for {
		if e := ws.next(t, "error"); e.Codigo == codeTooMany {
			break
		} else if e.Codigo != codeInvalid {
			t.Fatalf("%+v", e)
		}
	}
}

// TestRestart: a drain sends pages to another process at once, and takes no new ones.
func TestRestart(t *testing.T) {
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
		if code := ws.closed(t); code != websocket.CloseServiceRestart {
			t.Errorf("closed with %d", code)
		}
	}
	if conn, a := p.dial(t, cookie, p.url, ""); conn != nil || a != nil && a.StatusCode != http.StatusServiceUnavailable {
		t.Errorf("a new page: %v", a)
	}
	p.end(t)
	if n := p.sockets.count(); n != 0 {
		t.Errorf("%d left", n)
	}
}
