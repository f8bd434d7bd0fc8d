package web

import (
	"bytes"
	"database/sql"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/gorilla/websocket"

	"balanza/services/limits"
	"balanza/services/store"
)

const newPassword = "cuatro palabras sin orden"

// wantLoggedOut fails the test unless a session has ended: its cookie is not accepted, and its websocket is closed within 5 s.
func wantLoggedOut(t *testing.T, p *process, cookie *http.Cookie, ws page) {
	t.Helper()
	p.send(t, call{path: "/", cookie: cookie}).want(t, http.StatusSeeOther)
	p.send(t, call{path: "/account", cookie: cookie, header: acceptJSON}).want(t, http.StatusUnauthorized)
	_ = ws.SetReadDeadline(time.Now().Add(5 * time.Second))
	if code := ws.closeCode(t); code != websocket.ClosePolicyViolation {
		t.Errorf("the websocket was closed with %d", code)
	}
}

// Only POST logs out: a picture of /logout in a message would end the session of everybody who sees it.
func TestLogOutByPostOnly(t *testing.T) {
	p := start(t)
	addUser(t, p.store, "ana@example.org")
	cookie := addSession(t, p.store, "ana@example.org")
	ws := p.open(t, cookie)
	ws.next(t, "chat")
	for _, method := range []string{http.MethodGet, http.MethodHead} {
		a := p.send(t, call{method: method, path: "/logout", cookie: cookie}).want(t, http.StatusOK)
		if len(a.Cookies()) > 0 || method == http.MethodGet && !strings.Contains(a.body, `action="/logout"`) {
			t.Errorf("%s: %v %s", method, a.Header, a.body)
		}
		p.send(t, call{method: method, path: "/logout"}).want(t, http.StatusUnauthorized)
	}
	p.send(t, call{path: "/", cookie: cookie}).want(t, http.StatusOK)
	ws.write(t, `{"text":"hola","clientId":"1"}`)
	ws.next(t, "ack")
	p.send(t, call{method: "POST", path: "/logout", cookie: cookie}).want(t, http.StatusOK)
	wantLoggedOut(t, p, cookie, ws)
}

// A user whose record is deleted in the database itself is logged out at the next request, on every process. Others are not.
func TestUserDeletedInDatabase(t *testing.T) {
	folder := t.TempDir()
	one, other := startProcess(t, folder, Config{}), startProcess(t, folder, Config{})
	for _, email := range []string{"ana@example.org", "eva@example.org"} {
		addUser(t, one.store, email)
	}
	cookie, evas := addSession(t, one.store, "ana@example.org"), addSession(t, one.store, "eva@example.org")
	ws := other.open(t, cookie)
	ws.next(t, "chat")
	db, err := sql.Open("sqlite", filepath.Join(folder, "balanza.db"))
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	if _, err := db.Exec(`DELETE FROM users WHERE email = 'ana@example.org'`); err != nil {
		t.Fatal(err)
	}
	one.send(t, call{method: "POST", path: "/api/productos", cookie: cookie, json: "{}"}).want(t, http.StatusUnauthorized)
	wantLoggedOut(t, other, cookie, ws)
	other.send(t, call{path: "/", cookie: evas}).want(t, http.StatusOK)
}

// A session ends 12 hours after the log-in however much it is used, and so do its websockets.
func TestAbsoluteEnd(t *testing.T) {
	p := start(t)
	addUser(t, p.store, "ana@example.org")
	cookie := addSession(t, p.store, "ana@example.org")
	id := store.HashToken(cookie.Value)
	if err := p.store.DeleteSession(t.Context(), id); err != nil {
		t.Fatal(err)
	}
	ends := time.Now().Add(2500 * time.Millisecond)
	err := p.store.CreateSession(t.Context(), store.Session{
		ID: id, Email: "ana@example.org", Created: ends.Add(-maxSession), Expires: time.Now().Add(time.Second),
	})
	if err != nil {
		t.Fatal(err)
	}
	ws := p.open(t, cookie)
	ws.next(t, "chat")
	ws.write(t, `{"text":"hola","clientId":"1"}`)
	ws.next(t, "ack")
	p.send(t, call{path: "/", cookie: cookie}).want(t, http.StatusOK)
	session, err := p.store.Session(t.Context(), id, time.Now())
	if err != nil || session.Expires.Sub(ends).Abs() > time.Millisecond {
		t.Errorf("the session ends at %v, want %v (%v)", session.Expires, ends, err)
	}
	time.Sleep(time.Until(ends))
	wantLoggedOut(t, p, cookie, ws)
}

// The database has no value of a cookie.
func TestCookiesAreNotStored(t *testing.T) {
	folder := t.TempDir()
	p := startProcess(t, folder, Config{})
	addUser(t, p.store, "ana@example.org")
	a := p.send(t, call{method: "POST", path: "/login", form: anasLogin}).want(t, http.StatusSeeOther)
	ended := p.send(t, call{method: "POST", path: "/login", form: anasLogin}).want(t, http.StatusSeeOther).session(t)
	p.send(t, call{method: "POST", path: "/logout", cookie: ended}).want(t, http.StatusOK)
	for _, name := range []string{"balanza.db", "balanza.db-wal"} {
		content, err := os.ReadFile(filepath.Join(folder, name))
		if err != nil {
			t.Fatal(err)
		}
		for _, c := range append(a.Cookies(), ended) {
			if bytes.Contains(content, []byte(c.Value)) {
				t.Errorf("%s has the value of the cookie %s", name, c.Name)
			}
		}
	}
	// What the database has is no cookie.
	session, err := p.store.SessionsOf(t.Context(), "ana@example.org", time.Now(), 1)
	if err != nil {
		t.Fatal(err)
	}
	stolen := &http.Cookie{Name: "balanza", Value: session[0].ID}
	p.send(t, call{path: "/", cookie: stolen}).want(t, http.StatusSeeOther)
}

// A new password ends all other sessions on every process, and the old one is worth nothing. A log-in with the old password
// that is under way does not survive it.
func TestPasswordChange(t *testing.T) {
	folder := t.TempDir()
	one, other := startProcess(t, folder, Config{}), startProcess(t, folder, Config{})
	addUser(t, one.store, "ana@example.org")
	addUser(t, one.store, "eva@example.org")
	cookie, stolen := addSession(t, one.store, "ana@example.org"), addSession(t, one.store, "ana@example.org")
	evas := addSession(t, one.store, "eva@example.org")
	ws := other.open(t, stolen)
	ws.next(t, "chat")
	before, err := one.store.User(t.Context(), "ana@example.org")
	if err != nil {
		t.Fatal(err)
	}

	change := func(old, new string) call {
		return call{method: "POST", path: "/account/password", cookie: cookie, header: acceptJSON,
			form: url.Values{"password": {old}, "new": {new}}}
	}
	for _, wrong := range []struct {
		old, new, field string
		status          int
	}{
		{"not the one", newPassword, "password", http.StatusForbidden}, {"", newPassword, "password", http.StatusBadRequest},
		{knownPassword, "short", "new", http.StatusBadRequest}, {knownPassword, "Password1!", "new", http.StatusBadRequest},
		{knownPassword, "ana@example.org", "new", http.StatusBadRequest},
	} {
		if e := one.send(t, change(wrong.old, wrong.new)).want(t, wrong.status).jsonError(t); e.Campo != wrong.field {
			t.Errorf("%+v: %+v", wrong, e)
		}
		asForm := change(wrong.old, wrong.new)
		asForm.header = nil
		html := one.send(t, asForm).want(t, wrong.status)
		if !strings.Contains(html.body, "aria-invalid") || wrong.new != "" && wrong.new != "ana@example.org" && strings.Contains(html.body, wrong.new) {
			t.Errorf("%+v: %s", wrong, html.body)
		}
	}
	other.send(t, call{path: "/", cookie: stolen}).want(t, http.StatusOK)

	a := one.send(t, change(knownPassword, newPassword)).want(t, http.StatusOK)
	wantLoggedOut(t, other, stolen, ws)
	other.send(t, call{path: "/", cookie: cookie}).want(t, http.StatusSeeOther)
	other.send(t, call{path: "/", cookie: a.session(t)}).want(t, http.StatusOK)
	other.send(t, call{path: "/", cookie: evas}).want(t, http.StatusOK)
	for password, status := range map[string]int{knownPassword: http.StatusUnauthorized, newPassword: http.StatusOK} {
		login := call{method: "POST", path: "/login", header: acceptJSON, form: credentials("ana@example.org", password)}
		other.send(t, login).want(t, status)
	}
	late := store.NewToken()
	err = other.store.CreateSession(t.Context(), store.Session{ID: store.HashToken(late), Email: before.Email,
		Generation: before.Generation, Created: time.Now(), Expires: time.Now().Add(time.Minute)})
	if err != nil {
		t.Fatal(err)
	}
	one.send(t, call{path: "/", cookie: &http.Cookie{Name: "balanza", Value: late}}).want(t, http.StatusSeeOther)
}

// Wrong passwords at /account count like failed log-ins: an open browser is no way to try passwords without limit.
func TestAccountGuessing(t *testing.T) {
	few := limits.Default()
	few.Logins = 3
	p := startProcess(t, t.TempDir(), Config{Limits: few})
	addUser(t, p.store, "ana@example.org")
	cookie := addSession(t, p.store, "ana@example.org")
	awaitWindow(t, loginWindow)
	guess := func(path string) response {
		return p.send(t, call{method: "POST", path: path, cookie: cookie, header: acceptJSON,
			form: url.Values{"password": {"guess"}, "new": {newPassword}}})
	}
	guess("/account/password").want(t, http.StatusForbidden)
	guess("/account/delete").want(t, http.StatusForbidden)
	p.send(t, call{method: "POST", path: "/login", header: acceptJSON, form: credentials("ana@example.org", "guess")}).
		want(t, http.StatusUnauthorized)
	for _, path := range []string{"/account/password", "/account/delete"} {
		if a := guess(path).want(t, http.StatusTooManyRequests); a.Header.Get("Retry-After") == "" {
			t.Errorf("%v", a.Header)
		}
	}
	p.send(t, call{path: "/account", cookie: cookie}).want(t, http.StatusOK)
}

// A user sees the own sessions, and ends one or all others, on every process. Those of others stay, also by their ids.
func TestEndSessions(t *testing.T) {
	folder := t.TempDir()
	one, other := startProcess(t, folder, Config{}), startProcess(t, folder, Config{})
	addUser(t, one.store, "ana@example.org")
	addUser(t, one.store, "eva@example.org")
	evas := addSession(t, one.store, "eva@example.org")
	login := call{method: "POST", path: "/login", form: anasLogin,
		header: map[string]string{"User-Agent": "Mozilla/5.0 (Windows NT 10.0) Gecko/20100101 Firefox/140.0 \u202e" + strings.Repeat("ñ", 200)}}
	cookie := one.send(t, login).want(t, http.StatusSeeOther).session(t)
	second, third := one.send(t, login).session(t), one.send(t, login).session(t)
	ws, thirdWS := other.open(t, second), other.open(t, third)
	ws.next(t, "chat")

	var account Account
	a := other.send(t, call{path: "/account", cookie: cookie, header: acceptJSON}).want(t, http.StatusOK)
	if err := json.Unmarshal([]byte(a.body), &account); err != nil || len(account.Sessions) != 3 || account.Email != "ana@example.org" {
		t.Fatalf("%s (%v)", a.body, err)
	}
	if strings.Contains(a.body, cookie.Value) {
		t.Errorf("the value of the cookie is in %s", a.body)
	}
	for i, s := range account.Sessions {
		if s.Current != (i == 2) || s.Address != "127.0.0.1" || time.Since(s.Started) > time.Minute || len(s.Agent) > maxAgent ||
			s.Ends.Sub(s.Started) != maxSession || strings.Contains(s.Agent, "\u202e") || browserName(s.Agent) != "Firefox · Windows" {
			t.Errorf("session %d: %+v", i, s)
		}
	}
	html := one.send(t, call{path: "/account", cookie: cookie}).want(t, http.StatusOK)
	if strings.Count(html.body, "Firefox · Windows") != 3 || strings.Count(html.body, `name="id"`) != 2 {
		t.Errorf("%s", html.body)
	}

	end := func(id string) response {
		return one.send(t, call{method: "POST", path: "/account/sessions", cookie: cookie, form: url.Values{"id": {id}}})
	}
	for _, id := range []string{store.HashToken(evas.Value), "none"} {
		end(id).want(t, http.StatusSeeOther)
	}
	end(strings.Repeat("x", 100)).want(t, http.StatusBadRequest)
	other.send(t, call{path: "/", cookie: evas}).want(t, http.StatusOK)
	end(store.HashToken(second.Value)).want(t, http.StatusSeeOther)
	wantLoggedOut(t, other, second, ws)
	other.send(t, call{path: "/", cookie: third}).want(t, http.StatusOK)
	done := end("").want(t, http.StatusSeeOther)
	wantLoggedOut(t, other, third, thirdWS)
	other.send(t, call{path: "/", cookie: cookie}).want(t, http.StatusOK)
	other.send(t, call{path: "/", cookie: evas}).want(t, http.StatusOK)

	// The page says what was done, but not to a link of another site.
	for site, shown := range map[string]bool{"same-origin": true, "cross-site": false} {
		a := one.send(t, call{path: done.Header.Get("Location"), cookie: cookie, header: map[string]string{"Sec-Fetch-Site": site}})
		if strings.Contains(a.want(t, http.StatusOK).body, `id="done"`) != shown {
			t.Errorf("%s: %s", site, a.body)
		}
	}
	last := end(store.HashToken(cookie.Value)).want(t, http.StatusSeeOther)
	if last.Header.Get("Location") != "/login" {
		t.Errorf("%v", last.Header)
	}
	other.send(t, call{path: "/", cookie: cookie}).want(t, http.StatusSeeOther)
}

// A deleted account has no session on any process, a new one of the same email gets none of them, and its products stay.
func TestAccountDeletion(t *testing.T) {
	folder := t.TempDir()
	one, other := startProcess(t, folder, Config{}), startProcess(t, folder, Config{})
	addUser(t, one.store, "ana@example.org")
	cookie, second := addSession(t, one.store, "ana@example.org"), addSession(t, one.store, "ana@example.org")
	ws := other.open(t, second)
	ws.next(t, "chat")
	product := one.send(t, call{method: "POST", path: "/api/productos", cookie: cookie,
		json: `{"nombre":"Regla","precio":1,"foto":"https://example.org/r.png"}`}).want(t, http.StatusCreated)
	remove := func(password string) response {
		return one.send(t, call{method: "POST", path: "/account/delete", cookie: cookie, form: url.Values{"password": {password}}})
	}
	if a := remove("not the one").want(t, http.StatusForbidden); !strings.Contains(a.body, `id="delete-error"`) {
		t.Errorf("%s", a.body)
	}
	if a := remove(knownPassword).want(t, http.StatusSeeOther); a.Header.Get("Location") != "/account/deleted" {
		t.Errorf("%v", a.Header)
	}
	wantLoggedOut(t, other, second, ws)
	one.send(t, call{path: "/", cookie: cookie}).want(t, http.StatusSeeOther)
	one.send(t, call{method: "POST", path: "/login", header: acceptJSON, form: anasLogin}).want(t, http.StatusUnauthorized)
	other.send(t, call{path: product.Header.Get("Location")}).want(t, http.StatusOK)

	again := other.send(t, call{method: "POST", path: "/signup", form: profile("ana@example.org", newPassword)}).
		want(t, http.StatusSeeOther).session(t)
	one.send(t, call{path: "/", cookie: again}).want(t, http.StatusOK)
	one.send(t, call{path: "/", cookie: second}).want(t, http.StatusSeeOther)
}

// Emails that look alike are one account or an error, and names have nothing that hides or turns text.
func TestInvisibleCharacters(t *testing.T) {
	p := start(t)
	p.send(t, call{method: "POST", path: "/signup", form: profile("JOSÉ@example.org", newPassword)}).want(t, http.StatusSeeOther)
	decomposed := p.send(t, call{method: "POST", path: "/signup", header: acceptJSON, form: profile("jose\u0301@example.org", newPassword)})
	if e := decomposed.want(t, http.StatusConflict).jsonError(t); e.Campo != "email" {
		t.Errorf("%+v", e)
	}
	p.send(t, call{method: "POST", path: "/login", header: acceptJSON, form: credentials("Jose\u0301@example.org", newPassword)}).
		want(t, http.StatusOK)
	for _, r := range "\u200b\u200c\u200d\u200e\u202e\u2066\u2069\u00ad\ufeff\u2028\u00a0\u3000\u2003\u115f\u3164\u2800\ue000\u0378\U000e0041\ufe0f\u034f\u0085" {
		for _, field := range []string{"email", "nombre", "apellido", "alias"} {
			form := profile("ana@example.org", newPassword)
			value := form.Get(field)
			form.Set(field, value[:2]+string(r)+value[2:])
			e := p.send(t, call{method: "POST", path: "/signup", header: acceptJSON, form: form}).want(t, http.StatusBadRequest).jsonError(t)
			if e.Campo != field {
				t.Errorf("%s with %U: %+v", field, r, e)
			}
		}
		login := call{method: "POST", path: "/login", header: acceptJSON, form: credentials("an"+string(r)+"a@example.org", newPassword)}
		if e := p.send(t, login).want(t, http.StatusBadRequest).jsonError(t); e.Campo != "email" {
			t.Errorf("log-in with %U: %+v", r, e)
		}
	}
	for i, alias := range []string{"Ñandú 😀", "❤️", "👩‍🚀 Eva", "李小龙", "Łódź", "O’Neill", "👍🏽"} {
		form := profile(fmt.Sprintf("user%d@example.org", i), newPassword)
		form.Set("alias", alias)
		p.send(t, call{method: "POST", path: "/signup", form: form}).want(t, http.StatusSeeOther)
	}
}
