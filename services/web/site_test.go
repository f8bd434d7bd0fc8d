package web

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/gorilla/websocket"
	"golang.org/x/crypto/bcrypt"

	"balanza/services/eventlog"
	"balanza/services/processes"
	"balanza/services/store"
	"balanza/services/store/sqlitestore"
)

// process is one process of a server: it shares a store, which is a file, with others, and nothing else.
type process struct {
	*runningSite
	store store.Store
}

// startProcess starts a process on the database of a folder.
func startProcess(t *testing.T, folder string, config Config) *process {
	t.Helper()
	return startOn(t, folder, config, listen(t))
}

// startOn starts a process on the database of a folder, through config.Store if that is a wrapper, and on ln.
func startOn(t *testing.T, folder string, config Config, ln net.Listener) *process {
	t.Helper()
	db, err := sqlitestore.Open(t.Context(), filepath.Join(folder, "balanza.db"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { db.Close() })
	st := store.Store(db)
	if wrapper, ok := config.Store.(interface{ wrap(store.Store) store.Store }); ok {
		st = wrapper.wrap(db)
	}
	config.Logger = cmp.Or(config.Logger, slog.New(slog.DiscardHandler))
	clock := store.NewClock(st, config.Logger)
	log := eventlog.New(st, clock, func() int { return 1 })
	config.Store, config.Clock, config.Log, config.Process = st, clock, log, testProcess()
	config.Processes = processes.New(st, clock, store.Process{Server: config.Process.Server, PID: os.Getpid(), Started: time.Now()})
	site, err := New(config)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() { _ = log.Run(ctx) })
	running.Go(func() { _ = config.Processes.Run(ctx, site.Source()) })
	t.Cleanup(func() { cancel(); running.Wait() })
	site.hashers.cost, site.hashers.dummy = bcrypt.MinCost, cheapHash()
	return &process{serve(t, site, ln), st}
}

func start(t *testing.T) *process {
	t.Helper()
	return startProcess(t, t.TempDir(), Config{})
}

const knownPassword = "correct horse"

// cheapHash is the hash of knownPassword at the lowest cost, so that tests can log in often.
var cheapHash = sync.OnceValue(func() []byte {
	hash, err := bcrypt.GenerateFromPassword(digest(knownPassword), bcrypt.MinCost)
	if err != nil {
		panic(err)
	}
	return hash
})

// addUser creates a user with knownPassword.
func addUser(t testing.TB, st store.Store, email string) {
	t.Helper()
	err := st.CreateUser(t.Context(), store.User{
		Email:        email,
		PasswordHash: cheapHash(),
		Author:       store.Author{ID: email, Nombre: "Ana", Apellido: "Paz", Edad: 30, Alias: "ana"},
		Created:      time.Now(),
	})
	if err != nil {
		t.Fatal(err)
	}
}

// addSession logs a user in and returns the cookie.
func addSession(t testing.TB, st store.Store, email string) *http.Cookie {
	t.Helper()
	token := store.NewToken()
	session := store.Session{
		ID: store.HashToken(token), Email: email, Created: time.Now(), Expires: time.Now().Add(time.Minute),
	}
	if err := st.CreateSession(t.Context(), session); err != nil {
		t.Fatal(err)
	}
	return &http.Cookie{Name: "balanza", Value: token}
}

// call is a request to send; empty fields are left out.
type call struct {
	method string // GET when empty
	path   string
	cookie *http.Cookie
	header map[string]string
	form   url.Values
	json   string
	body   string
}

// response is an answer with its body, which was read.
type response struct {
	*http.Response
	body string
}

// send sends a request as it is: no redirect is followed, no cookie kept.
func (v *runningSite) send(t *testing.T, c call) response {
	t.Helper()
	body, kind := c.body, ""
	switch {
	case c.form != nil:
		body, kind = c.form.Encode(), "application/x-www-form-urlencoded"
	case c.json != "":
		body, kind = c.json, "application/json"
	}
	r, err := http.NewRequest(c.method, v.url+c.path, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	if kind != "" {
		r.Header.Set("Content-Type", kind)
	}
	if c.cookie != nil {
		r.AddCookie(c.cookie)
	}
	for name, value := range c.header {
		r.Header.Set(name, value)
		if name == "Host" {
			r.Host = value
		}
	}
	client := &http.Client{
		Transport:     &http.Transport{DisableKeepAlives: true},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	a, text := send(t, client, r)
	return response{a, text}
}

// want fails the test unless the answer has that status.
func (a response) want(t *testing.T, status int) response {
	t.Helper()
	if a.StatusCode != status {
		t.Fatalf("%s %s: status %d, want %d: %.300s", a.Request.Method, a.Request.URL.Path, a.StatusCode, status, a.body)
	}
	return a
}

// jsonError reads a JSON error.
func (a response) jsonError(t *testing.T) errorBody {
	t.Helper()
	var e errorBody
	if err := json.Unmarshal([]byte(a.body), &e); err != nil || e.Error >= 0 || e.Descripcion == "" {
		t.Fatalf("%s %s: no JSON error: %.300s", a.Request.Method, a.Request.URL.Path, a.body)
	}
	return e
}

// session returns the session cookie that an answer sets.
func (a response) session(t *testing.T) *http.Cookie {
	t.Helper()
	for _, c := range a.Cookies() {
		if !strings.HasSuffix(c.Name, ".device") && c.Value != "" {
			return c
		}
	}
	t.Fatalf("no session cookie in %v", a.Header)
	return nil
}

// device returns the device cookie that an answer sets.
func (a response) device(t *testing.T) *http.Cookie {
	t.Helper()
	for _, c := range a.Cookies() {
		if strings.HasSuffix(c.Name, ".device") && c.Value != "" {
			return c
		}
	}
	t.Fatalf("no device cookie in %v", a.Header)
	return nil
}

func credentials(email, password string) url.Values {
	return url.Values{"email": {email}, "password": {password}}
}

// profile returns the fields of a sign-up form.
func profile(email, password string) url.Values {
	f := credentials(email, password)
	f.Set("nombre", "Ana")
	f.Set("apellido", "Paz")
	f.Set("edad", "30")
	f.Set("alias", "ana")
	f.Set("avatar", "")
	return f
}

var acceptJSON = map[string]string{"Accept": "application/json"}

// page is an open websocket.
type page struct{ *websocket.Conn }

func (v *runningSite) dial(t *testing.T, cookie *http.Cookie, origin, query string) (*websocket.Conn, *http.Response) {
	t.Helper()
	header := http.Header{"Cookie": {cookie.String()}}
	if origin != "" {
		header.Set("Origin", origin)
	}
	conn, answer, err := websocket.DefaultDialer.Dial(strings.Replace(v.url, "http", "ws", 1)+"/ws"+query, header)
	if err == nil {
		t.Cleanup(func() { conn.Close() })
	}
	return conn, answer
}

// open opens a websocket as a page of the site does that has no messages yet.
func (v *runningSite) open(t *testing.T, cookie *http.Cookie) page {
	t.Helper()
	return v.openAfter(t, cookie, 0)
}

// openAfter opens a websocket as a page does that has all entries up to one.
func (v *runningSite) openAfter(t *testing.T, cookie *http.Cookie, entry int64) page {
	t.Helper()
	conn, answer := v.dial(t, cookie, v.url, fmt.Sprintf("?after=%d", entry))
	if conn == nil {
		t.Fatalf("no websocket: %v", answer)
	}
	_ = conn.SetReadDeadline(time.Now().Add(20 * time.Second))
	return page{conn}
}

// openSlowly is open for a page that receives only a few KiB at a time.
func (v *runningSite) openSlowly(t *testing.T, cookie *http.Cookie) page {
	t.Helper()
	slow := websocket.Dialer{NetDial: func(network, address string) (net.Conn, error) {
		conn, err := net.Dial(network, address)
		if err == nil {
			err = conn.(*net.TCPConn).SetReadBuffer(8 << 10)
		}
		return conn, err
	}}
	header := http.Header{"Cookie": {cookie.String()}, "Origin": {v.url}}
	conn, _, err := slow.Dial(strings.Replace(v.url, "http", "ws", 1)+"/ws", header)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	_ = conn.SetReadDeadline(time.Now().Add(20 * time.Second))
	return page{conn}
}

// serverFrame is any frame that the server sends.
type serverFrame struct {
	Type        string
	ClientID    string
	ID          any
	Last        int64
	More        bool
	Reset       bool
	Codigo      int
	Espera      int
	Product     *store.Product
	Descripcion string
	Normalised  struct {
		Entities struct {
			Messages map[string]struct{ Text, Author string }
			Chats    map[string]struct{ Mensajes []int64 }
		}
	}
}

// next returns the next frame of a type.
func (p page) next(t *testing.T, kind string) serverFrame {
	t.Helper()
	for {
		var f serverFrame
		if err := p.ReadJSON(&f); err != nil {
			t.Fatalf("waiting for %s: %v", kind, err)
		}
		if f.Type == kind {
			return f
		}
	}
}

// closeCode reads up to the close frame and returns its code.
func (p page) closeCode(t *testing.T) int {
	t.Helper()
	for {
		_, _, err := p.ReadMessage()
		if e, ok := err.(*websocket.CloseError); ok {
			return e.Code
		}
		if err != nil {
			t.Fatalf("waiting for the close frame: %v", err)
		}
	}
}

func (p page) write(t *testing.T, frame string) {
	t.Helper()
	if err := p.WriteMessage(websocket.TextMessage, []byte(frame)); err != nil {
		t.Fatal(err)
	}
}
