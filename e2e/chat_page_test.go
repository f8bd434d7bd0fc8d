package e2e

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"net/http/cookiejar"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/gorilla/websocket"

	"balanza/services/chat"
	"balanza/services/store"
)

// What socket.js does by the clock.
const (
	firstPause   = 250 * time.Millisecond // before the first new try; doubled each time …
	longestPause = 8 * time.Second        // … up to this
	silenceEnds  = 10 * time.Second       // the connection, while messages are not acknowledged
	repeatAfter  = 1500 * time.Millisecond
	atOnce       = 16 // messages on their way
)

// The codes of refusals that pass.
const (
	tooMany     = -6
	unavailable = -7
)

// user is somebody who is logged in.
type user struct {
	author store.Author
	http   http.Client // has the cookie, follows no redirect
}

// newUser signs up at a site. The name is the first part of the email.
func newUser(t *testing.T, site, name string) *user {
	t.Helper()
	jar, err := cookiejar.New(nil)
	if err != nil {
		t.Fatal(err)
	}
	u := &user{
		author: store.Author{
			ID: name + "@example.com", Nombre: name, Apellido: "Prueba", Edad: 30, Alias: name,
			Avatar: "https://example.com/" + name + ".png",
		},
		http: http.Client{
			Jar: jar, Timeout: 20 * time.Second,
			Transport:     &http.Transport{},
			CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		},
	}
	t.Cleanup(u.http.CloseIdleConnections)
	answer, err := u.post(site+"/signup", map[string]any{
		"email": u.author.ID, "password": password, "nombre": name, "apellido": u.author.Apellido, "edad": u.author.Edad,
		"alias": u.author.Alias, "avatar": u.author.Avatar,
	})
	if err != nil {
		t.Fatal(err)
	}
	defer answer.Body.Close()
	if answer.StatusCode != http.StatusCreated {
		t.Fatalf("sign-up of %s: %s", u.author.ID, answer.Status)
	}
	return u
}

// post sends an object as JSON.
func (u *user) post(url string, v any) (*http.Response, error) {
	body, err := json.Marshal(v)
	if err != nil {
		return nil, err
	}
	r, err := http.NewRequest(http.MethodPost, url, bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	r.Header.Set("Content-Type", "application/json")
	r.Header.Set("Accept", "application/json")
	return u.http.Do(r)
}

// dial opens a websocket as a page of that site does that has everything up to the entry after. The answer tells who took it.
func (u *user) dial(ctx context.Context, site string, after int64) (*websocket.Conn, *http.Response, error) {
	d := websocket.Dialer{Jar: u.http.Jar, HandshakeTimeout: 10 * time.Second}
	url := fmt.Sprintf("%s/ws?after=%d", strings.Replace(site, "http", "ws", 1), after)
	return d.DialContext(ctx, url, http.Header{"Origin": {site}})
}

// page is the chat's page without a browser: it keeps to what socket.js and chat.js do.
type page struct {
	user  *user
	sites []string // base URLs; each connection goes to one of them

	mu       sync.Mutex
	conn     *websocket.Conn // nil between connections
	last     int64           // the last log entry that it has
	shown    map[int64]chat.Message
	order    []int64 // numbers of the messages shown, as they came
	again    []int64 // numbers that were told more than once
	resets   int
	pending  []*pending
	silence  *time.Timer
	acked    map[string]int64 // text → number
	problems []string
	closes   map[int]int // how connections ended: close code → how often
}

// pending is a message that is not acknowledged.
type pending struct {
	id, text string
	sent     bool
	timer    *time.Timer // of its repetition
}

// event is any frame of the server.
type event struct {
	Type        string
	ClientID    string
	ID          json.RawMessage // of an ack a number
	Codigo      int
	Descripcion string
	Last        int64
	Reset       bool
	Normalised  chat.Normalised
}

// openPage opens a page that has what is said up to the entry after. It is closed when the test ends.
func openPage(t *testing.T, u *user, after int64, sites ...string) *page {
	p := &page{
		user: u, sites: sites, last: after,
		shown: map[int64]chat.Message{}, acked: map[string]int64{}, closes: map[int]int{},
	}
	p.silence = time.AfterFunc(time.Hour, p.hangUp)
	p.silence.Stop()
	ctx, cancel := context.WithCancel(t.Context())
	var living sync.WaitGroup
	living.Go(func() { p.live(ctx) })
	t.Cleanup(func() { cancel(); living.Wait() })
	return p
}

// live connects, again and again, until ctx ends.
func (p *page) live(ctx context.Context) {
	pause := firstPause
	for ctx.Err() == nil {
		if joined := p.stay(ctx); joined {
			pause = firstPause
		}
		select {
		case <-ctx.Done():
		case <-time.After(pause/2 + rand.N(pause/2)):
		}
		pause = min(2*pause, longestPause)
	}
}

// stay is one connection. It tells whether the server took the page in.
func (p *page) stay(ctx context.Context) (joined bool) {
	p.mu.Lock()
	last := p.last
	p.mu.Unlock()
	conn, _, err := p.user.dial(ctx, p.sites[rand.N(len(p.sites))], last)
	if err != nil {
		return false
	}
	defer conn.Close()
	defer context.AfterFunc(ctx, func() { conn.Close() })()
	p.opened(conn)
	defer p.closed()
	for {
		var e event
		if err := conn.ReadJSON(&e); err != nil {
			p.ended(err)
			return joined
		}
		joined = p.receive(e) || joined
	}
}

func (p *page) opened(conn *websocket.Conn) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.conn = conn
	p.send()
}

func (p *page) closed() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.conn = nil
	p.silence.Stop()
	for _, m := range p.pending {
		m.stop()
		m.sent = false
	}
}

func (p *page) hangUp() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.conn != nil {
		p.conn.Close()
	}
}

func (p *page) ended(err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if e, ok := errors.AsType[*websocket.CloseError](err); ok {
		p.closes[e.Code]++
	} else {
		p.closes[0]++
	}
}

// say sends a message, now or as soon as there is a connection.
func (p *page) say(text string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	m := &pending{id: fmt.Sprintf("%016x%016x", rand.Uint64(), rand.Uint64()), text: text}
	p.pending = append(p.pending, m)
	p.send()
}

// send sends the oldest messages that are not sent yet. It is called with mu locked, as all that follow.
func (p *page) send() {
	if p.conn == nil {
		return
	}
	for _, m := range p.pending[:min(atOnce, len(p.pending))] {
		if !m.sent {
			m.sent = true
			// A dead connection shows when reading.
			_ = p.conn.WriteJSON(map[string]any{"type": "message", "text": m.text, "clientId": m.id})
		}
	}
	p.listen()
}

func (p *page) listen() {
	p.silence.Stop()
	if len(p.pending) > 0 {
		p.silence.Reset(silenceEnds)
	}
}

func (m *pending) stop() {
	if m.timer != nil {
		m.timer.Stop()
	}
}

// receive tells whether the event was what the chat says, not an answer.
func (p *page) receive(e event) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.listen()
	switch e.Type {
	case "ack":
		p.acknowledge(e)
	case "error":
		p.refused(e)
	case "chat":
		p.take(e)
		return true
	}
	return false
}

func (p *page) acknowledge(e event) {
	i := slices.IndexFunc(p.pending, func(m *pending) bool { return m.id == e.ClientID })
	if i < 0 {
		return // of a message that was sent twice
	}
	var n int64
	if err := json.Unmarshal(e.ID, &n); err != nil || n <= 0 {
		p.problem("acknowledged with the number %s", e.ID)
	}
	p.pending[i].stop()
	p.acked[p.pending[i].text] = n
	p.pending = slices.Delete(p.pending, i, i+1)
	p.send()
}

func (p *page) refused(e event) {
	i := slices.IndexFunc(p.pending, func(m *pending) bool { return m.id == e.ClientID })
	if i < 0 || e.Codigo != tooMany && e.Codigo != unavailable {
		p.problem("refused with %d: %s", e.Codigo, e.Descripcion)
		return
	}
	m := p.pending[i]
	m.timer = time.AfterFunc(repeatAfter, func() {
		p.mu.Lock()
		defer p.mu.Unlock()
		m.sent = false
		p.send()
	})
}

func (p *page) take(e event) {
	if e.Reset {
		p.resets++
		p.order = nil
		clear(p.shown)
	}
	p.last = e.Last
	for _, n := range e.Normalised.Entities.Chats[e.Normalised.Result].Messages {
		m, ok := e.Normalised.Entities.Messages[fmt.Sprint(n)]
		if !ok || m.ID != n {
			p.problem("message %d is not among the entities", n)
		}
		if _, ok := e.Normalised.Entities.Authors[m.Author]; !ok {
			p.problem("the author of message %d is not among the entities", n)
		}
		if _, told := p.shown[n]; told {
			p.again = append(p.again, n)
		} else {
			p.order = append(p.order, n)
		}
		p.shown[n] = m
	}
}

func (p *page) problem(format string, args ...any) {
	p.problems = append(p.problems, fmt.Sprintf(format, args...))
}

// count tells how many messages the page shows, how many of its own are acknowledged, and how many are not.
func (p *page) count() (shown, acked, pending int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.shown), len(p.acked), len(p.pending)
}

// awaitShown waits until the page shows that many messages and waits for no acknowledgement, as long as there is progress.
func (p *page) awaitShown(t *testing.T, want int) {
	t.Helper()
	const stuck = 30 * time.Second
	moved, before := time.Now(), [3]int{}
	for {
		var now [3]int
		now[0], now[1], now[2] = p.count()
		switch {
		case now[0] >= want && now[2] == 0:
			return
		case now != before:
			moved, before = time.Now(), now
		case time.Since(moved) > stuck:
			t.Fatalf("%s: %d messages shown, want %d; %d are acknowledged, %d wait for it, for %v", p.user.author.ID, now[0], want,
				now[1], now[2], stuck)
		}
		time.Sleep(30 * time.Millisecond)
	}
}
