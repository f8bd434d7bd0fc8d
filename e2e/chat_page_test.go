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
	"net/url"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/gorilla/websocket"

	"balanza/services/chat"
	"balanza/services/store"
)

// The intervals and limits of socket.js and chat.js.
const (
	minBackoff     = 250 * time.Millisecond // doubled after each failure …
	maxBackoff     = 8 * time.Second        // … up to this
	silenceTimeout = 25 * time.Second       // without a frame; then the page drops the connection
	retryDelay     = 1500 * time.Millisecond
	maxInFlight    = 16                     // messages sent and not acknowledged
	sendInterval   = 100 * time.Millisecond // between two messages on average
	sendBurst      = 16                     // messages sent without these intervals
)

// chatLimits are settings with which pages may send and connect as often as these tests do.
const chatLimits = "BALANZA_LIMIT_MESSAGES=100000\nBALANZA_LIMIT_WEBSOCKETS=1000"

// The codes of temporary errors: the page sends the message again.
const (
	codeTooMany     = -6
	codeUnavailable = -7
)

// user is a logged-in user.
type user struct {
	author store.Author
	http   http.Client // has the session cookie, follows no redirect
}

// newUser signs up at a site, given as base URL. The name is the first part of the email.
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
	u.signUp(t, site)
	return u
}

// signUp makes the user's account at a site, which logs in.
func (u *user) signUp(t *testing.T, site string) {
	t.Helper()
	if err := u.create(site+"/signup", map[string]any{
		"email": u.author.ID, "password": password, "nombre": u.author.Nombre, "apellido": u.author.Apellido, "edad": u.author.Edad,
		"alias": u.author.Alias, "avatar": u.author.Avatar,
	}); err != nil {
		t.Fatalf("sign-up of %s: %v", u.author.ID, err)
	}
}

// createProduct makes a product at a site.
func (u *user) createProduct(site, name string) error {
	return u.create(site+"/api/productos", map[string]any{"nombre": name, "precio": 12.5, "foto": "https://example.com/p.png"})
}

// create posts an object, and returns an error unless the answer is that it was created.
func (u *user) create(url string, v any) error {
	answer, err := u.post(url, v)
	if err != nil {
		return err
	}
	defer answer.Body.Close()
	return expect(nil, answer.StatusCode == http.StatusCreated, "%s", answer.Status)
}

// cookies is the header Cookie of the user's requests to a site.
func (u *user) cookies(site string) string {
	address, err := url.Parse(site)
	if err != nil {
		panic(err)
	}
	var pairs []string
	for _, c := range u.http.Jar.Cookies(address) {
		pairs = append(pairs, c.String())
	}
	return strings.Join(pairs, "; ")
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

// dial opens a websocket, as a page does that has the log's entries up to the one numbered after. The response names the
// process that has the websocket.
func (u *user) dial(ctx context.Context, site string, after int64) (*websocket.Conn, *http.Response, error) {
	d := websocket.Dialer{Jar: u.http.Jar, HandshakeTimeout: 10 * time.Second}
	url := fmt.Sprintf("%s/ws?after=%d", strings.Replace(site, "http", "ws", 1), after)
	return d.DialContext(ctx, url, http.Header{"Origin": {site}})
}

// page is a chat page without a browser. It implements the protocol as socket.js and chat.js do.
type page struct {
	user  *user
	sites []string // base URLs; each connection goes to a random one

	mu           sync.Mutex
	conn         *websocket.Conn // nil between connections
	last         int64           // number of the last log entry received
	shown        map[int64]chat.Message
	order        []int64 // numbers of the messages shown, in the order received
	repeated     []int64 // numbers received more than once
	pending      []*pending
	paced        time.Time   // when all messages sent so far would have been sent, one in each sendInterval
	pausedUntil  time.Time   // before then the server accepts no message
	paceTimer    *time.Timer // of the next message that must wait
	silenceTimer *time.Timer
	acked        map[string]int64 // text → number
	problems     []string
	closes       map[int]int // close code → number of connections that ended with it; 0: without a close frame
}

// pending is a message that is not acknowledged.
type pending struct {
	id, text string
	sent     bool
	retry    *time.Timer // nil: the server has reported no temporary error
}

// frame is any frame of the server.
type frame struct {
	Type        string
	ClientID    string
	ID          json.RawMessage // in an acknowledgement: the message's number
	Codigo      int
	Descripcion string
	Espera      int // seconds
	Last        int64
	Reset       bool
	Normalised  chat.Normalised
}

// openPage opens a page that has the log's entries up to the one numbered after. It is closed when the test ends.
func openPage(t *testing.T, u *user, after int64, sites ...string) *page {
	p := &page{
		user: u, sites: sites, last: after,
		shown: map[int64]chat.Message{}, acked: map[string]int64{}, closes: map[int]int{},
	}
	p.silenceTimer = time.AfterFunc(time.Hour, p.closeConn)
	p.silenceTimer.Stop()
	ctx, cancel := context.WithCancel(t.Context())
	var running sync.WaitGroup
	running.Go(func() { p.run(ctx) })
	t.Cleanup(func() { cancel(); running.Wait() })
	return p
}

// run keeps the page connected until ctx ends.
func (p *page) run(ctx context.Context) {
	backoff := minBackoff
	for ctx.Err() == nil {
		if joined := p.connect(ctx); joined {
			backoff = minBackoff
		}
		select {
		case <-ctx.Done():
		case <-time.After(backoff/2 + rand.N(backoff/2)):
		}
		backoff = min(2*backoff, maxBackoff)
	}
}

// connect opens a connection and reads it to its end. joined reports whether the server delivered chat messages.
func (p *page) connect(ctx context.Context) (joined bool) {
	p.mu.Lock()
	last := p.last
	p.mu.Unlock()
	conn, _, err := p.user.dial(ctx, p.sites[rand.N(len(p.sites))], last)
	if err != nil {
		return false
	}
	defer conn.Close()
	defer context.AfterFunc(ctx, func() { conn.Close() })()
	p.onOpen(conn)
	defer p.onClose()
	for {
		var f frame
		if err := conn.ReadJSON(&f); err != nil {
			p.countClose(err)
			return joined
		}
		joined = p.handleFrame(f) || joined
	}
}

func (p *page) onOpen(conn *websocket.Conn) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.conn = conn
	p.silenceTimer.Reset(silenceTimeout)
	p.flush()
}

func (p *page) onClose() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.conn = nil
	p.silenceTimer.Stop()
	for _, m := range p.pending {
		m.cancelRetry()
		m.sent = false
	}
}

func (p *page) closeConn() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.conn != nil {
		p.conn.Close()
	}
}

func (p *page) countClose(err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if e, ok := errors.AsType[*websocket.CloseError](err); ok {
		p.closes[e.Code]++
	} else {
		p.closes[0]++
	}
}

// send adds a message to the pending ones and sends it as soon as there is a connection.
func (p *page) send(text string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	m := &pending{id: fmt.Sprintf("%016x%016x", rand.Uint64(), rand.Uint64()), text: text}
	p.pending = append(p.pending, m)
	p.flush()
}

// flush sends the oldest messages that are not sent yet, at the pace that the server allows. The caller has locked mu, as for
// all methods down to problem.
func (p *page) flush() {
	if p.paceTimer != nil {
		p.paceTimer.Stop()
	}
	if p.conn == nil {
		return
	}
	for _, m := range p.pending[:min(maxInFlight, len(p.pending))] {
		if m.sent {
			continue
		}
		now := time.Now()
		if wait := max(p.paced.Add(-(sendBurst-1)*sendInterval).Sub(now), p.pausedUntil.Sub(now)); wait > 0 {
			p.paceTimer = time.AfterFunc(wait, func() {
				p.mu.Lock()
				defer p.mu.Unlock()
				p.flush()
			})
			return
		}
		if p.paced.Before(now) {
			p.paced = now
		}
		p.paced = p.paced.Add(sendInterval)
		m.sent = true
		// The reader gets the error of a broken connection.
		_ = p.conn.WriteJSON(map[string]any{"type": "message", "text": m.text, "clientId": m.id})
	}
}

func (m *pending) cancelRetry() {
	if m.retry != nil {
		m.retry.Stop()
	}
}

// handleFrame reports whether the frame delivers chat messages. It locks mu.
func (p *page) handleFrame(f frame) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.silenceTimer.Reset(silenceTimeout)
	switch f.Type {
	case "ack":
		p.handleAck(f)
	case "error":
		p.handleError(f)
	case "chat":
		p.show(f)
		return true
	}
	return false
}

func (p *page) handleAck(f frame) {
	i := slices.IndexFunc(p.pending, func(m *pending) bool { return m.id == f.ClientID })
	if i < 0 {
		return // the acknowledgement of a message that was sent twice
	}
	var n int64
	if err := json.Unmarshal(f.ID, &n); err != nil || n <= 0 {
		p.problem("acknowledged with the number %s", f.ID)
	}
	p.pending[i].cancelRetry()
	p.acked[p.pending[i].text] = n
	p.pending = slices.Delete(p.pending, i, i+1)
	p.flush()
}

func (p *page) handleError(f frame) {
	i := slices.IndexFunc(p.pending, func(m *pending) bool { return m.id == f.ClientID })
	if i < 0 || f.Codigo != codeTooMany && f.Codigo != codeUnavailable {
		p.problem("error frame with code %d: %s", f.Codigo, f.Descripcion)
		return
	}
	m, delay := p.pending[i], retryDelay
	if f.Espera > 0 {
		delay = time.Duration(f.Espera) * time.Second
		p.pausedUntil = time.Now().Add(delay)
	}
	m.retry = time.AfterFunc(delay, func() {
		p.mu.Lock()
		defer p.mu.Unlock()
		m.sent = false
		p.flush()
	})
}

func (p *page) show(f frame) {
	if f.Reset {
		p.order = nil
		clear(p.shown)
	}
	p.last = f.Last
	for _, n := range f.Normalised.Entities.Chats[f.Normalised.Result].Messages {
		m, ok := f.Normalised.Entities.Messages[fmt.Sprint(n)]
		if !ok || m.ID != n {
			p.problem("message %d is not among the entities", n)
		}
		if _, ok := f.Normalised.Entities.Authors[m.Author]; !ok {
			p.problem("the author of message %d is not among the entities", n)
		}
		if _, ok := p.shown[n]; ok {
			p.repeated = append(p.repeated, n)
		} else {
			p.order = append(p.order, n)
		}
		p.shown[n] = m
	}
}

func (p *page) problem(format string, args ...any) {
	p.problems = append(p.problems, fmt.Sprintf(format, args...))
}

// count returns how many messages the page shows, and how many of its own are acknowledged and pending.
func (p *page) count() (shown, acked, pending int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.shown), len(p.acked), len(p.pending)
}

// awaitShown waits until the page shows that many messages and has none pending. It fails after 30 s without progress.
func (p *page) awaitShown(t *testing.T, want int) {
	t.Helper()
	const stallTimeout = 30 * time.Second
	type counts struct{ shown, acked, pending int }
	changed, before := time.Now(), counts{}
	for {
		var now counts
		now.shown, now.acked, now.pending = p.count()
		switch {
		case now.shown >= want && now.pending == 0:
			return
		case now != before:
			changed, before = time.Now(), now
		case time.Since(changed) > stallTimeout:
			t.Fatalf("the page of %s shows %d messages, want %d; %d of its own are acknowledged, %d pending; no change for %v",
				p.user.author.ID, now.shown, want, now.acked, now.pending, stallTimeout)
		}
		time.Sleep(30 * time.Millisecond)
	}
}
