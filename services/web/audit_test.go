package web

import (
	"bytes"
	"encoding/json"
	"fmt"
	"log/slog"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"balanza/services/limits"
	"balanza/services/store"
)

// logBuffer keeps what is logged.
type logBuffer struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (b *logBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.Write(p)
}

func (b *logBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.String()
}

// auditLine is a line of the log in JSON.
type auditLine struct {
	Level, Msg, Event, Email, Client, Request string
	Count                                     int
}

// lines returns the lines that have an event.
func (b *logBuffer) lines(t *testing.T) (lines []auditLine) {
	t.Helper()
	for text := range strings.Lines(b.String()) {
		var line auditLine
		if err := json.Unmarshal([]byte(text), &line); err != nil {
			t.Fatalf("%q is no line of JSON: %v", text, err)
		}
		if line.Event != "" {
			lines = append(lines, line)
		}
	}
	return lines
}

// Each act of an account is one line of the log, with the email and the address, and without secrets.
func TestAudit(t *testing.T) {
	log := &logBuffer{}
	p := startProcess(t, t.TempDir(), Config{Logger: slog.New(slog.NewJSONHandler(log, nil)), TrustedProxies: viaProxy})
	const address = "192.0.2.1"
	var secrets []string
	post := func(path string, cookie *http.Cookie, form url.Values) response {
		header := from(address)
		header["X-Request-Id"] = "the-id"
		a := p.send(t, call{method: "POST", path: path, cookie: cookie, header: header, form: form})
		for _, c := range a.Cookies() {
			if c.Value != "" {
				secrets = append(secrets, c.Value, store.HashToken(c.Value))
			}
		}
		return a
	}
	first := post("/signup", nil, profile("Ana@example.org", newPassword)).want(t, http.StatusCreated).session(t)
	post("/login", nil, credentials("ana@example.org", "not the one")).want(t, http.StatusUnauthorized)
	post("/login", nil, credentials("nobody@example.org", "not the one")).want(t, http.StatusUnauthorized)
	second := post("/login", nil, credentials("ana@example.org", newPassword)).want(t, http.StatusOK).session(t)
	post("/logout", first, nil).want(t, http.StatusOK)
	post("/account/sessions", second, url.Values{"id": {""}}).want(t, http.StatusOK)
	post("/account/password", second, url.Values{"password": {"not the one"}, "new": {knownPassword}}).want(t, http.StatusForbidden)
	third := post("/account/password", second, url.Values{"password": {newPassword}, "new": {knownPassword}}).
		want(t, http.StatusOK).session(t)
	post("/account/delete", third, url.Values{"password": {knownPassword}}).want(t, http.StatusOK)

	var got []string
	for _, l := range log.lines(t) {
		got = append(got, l.Level+" "+l.Event+" "+l.Email)
		if l.Client != address || l.Msg == "" || l.Request != "the-id" {
			t.Errorf("%+v", l)
		}
	}
	want := []string{
		"INFO signup ana@example.org", "INFO login ana@example.org", "WARN login-failed ana@example.org",
		"WARN login-failed nobody@example.org", "INFO login ana@example.org", "INFO logout ana@example.org",
		"INFO sessions-ended ana@example.org", "WARN login-failed ana@example.org", "INFO password-changed ana@example.org",
		"INFO account-deleted ana@example.org",
	}
	if !slices.Equal(got, want) {
		t.Errorf("lines\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
	for _, secret := range append(secrets, newPassword, knownPassword, "not the one") {
		if strings.Contains(log.String(), secret) {
			t.Errorf("the log has %q", secret)
		}
	}
}

// Refusals are at most one line a second for each address, with their number, and no line is lost for another address.
func TestAuditOfRefusals(t *testing.T) {
	few := limits.Default()
	few.Logins, few.Signups, few.Products, few.ProductChanges = 1, 1, 1, 2
	log := &logBuffer{}
	p := startProcess(t, t.TempDir(), Config{
		Limits: few, Logger: slog.New(slog.NewJSONHandler(log, nil)), TrustedProxies: viaProxy,
	})
	addUser(t, p.store, "ana@example.org")
	cookie := addSession(t, p.store, "ana@example.org")
	awaitWindow(t, changeWindow)
	login := call{method: "POST", path: "/login", header: from("192.0.2.1"), form: credentials("eva@example.org", "guess")}
	p.send(t, login).want(t, http.StatusUnauthorized)
	began := time.Now()
	const refused = 200
	for range refused {
		p.send(t, login).want(t, http.StatusTooManyRequests)
	}
	took := time.Since(began)
	for n, status := range []int{http.StatusCreated, http.StatusTooManyRequests} {
		p.send(t, call{method: "POST", path: "/signup", header: from("192.0.2.2"), form: profile(fmt.Sprint("u", n, "@example.org"), newPassword)}).want(t, status)
	}
	for n, status := range []int{http.StatusCreated, http.StatusForbidden, http.StatusTooManyRequests} {
		header := from(fmt.Sprint("192.0.2.", 3+n))
		p.send(t, call{method: "POST", path: "/api/productos", cookie: cookie, header: header,
			json: `{"nombre":"Regla","precio":1,"foto":"https://example.org/r.png"}`}).want(t, status)
	}
	time.Sleep(refusalInterval + 100*time.Millisecond)

	lines, counted := 0, 0
	events := map[string]int{}
	for _, l := range log.lines(t) {
		events[l.Event]++
		if l.Client == "192.0.2.1" && l.Event != "login-failed" {
			lines++
			counted += max(1, l.Count)
		}
	}
	if most := 2 + int(took/refusalInterval); lines > most || counted != refused {
		t.Errorf("%d refusals in %v made %d lines that count %d, want at most %d lines", refused, took, lines, counted, most)
	}
	if events["signup-refused"] != 1 || events["product-refused"] != 2 || events["login-refused"] != 1 {
		t.Errorf("%v", events)
	}
}

// What a client sends neither begins a line of the log nor reaches a terminal as an escape sequence, in either format.
func TestAuditIsSafe(t *testing.T) {
	for name, handler := range map[string]func(*logBuffer) slog.Handler{
		"text": func(b *logBuffer) slog.Handler { return slog.NewTextHandler(b, nil) },
		"JSON": func(b *logBuffer) slog.Handler { return slog.NewJSONHandler(b, nil) },
	} {
		log := &logBuffer{}
		p := startProcess(t, t.TempDir(), Config{Logger: slog.New(handler(log)), TrustedProxies: viaProxy})
		sent := 0
		for _, email := range []string{
			"a\"b=c@x.y", "a\nlevel=INFO event=login@x.y", "a\x1b[31m@x.y", "a\u009b31m@x.y", "a\u202e@x.y", `{"event":"login"}`, "ñandú 😀",
		} {
			for _, address := range []string{"192.0.2.1", "evil event=login", "::1%\"x"} {
				p.send(t, call{method: "POST", path: "/login", header: from(address), json: string(must(json.Marshal(map[string]string{
					"email": email, "password": "guess"})))})
				sent++
			}
		}
		text := log.String()
		if strings.ContainsAny(text, "\x1b\u009b\u202e") || strings.Count(text, "\n") > sent || strings.Contains(text, "evil") ||
			strings.Contains(text, "\nlevel=INFO event=login") || strings.Contains(text, "event=login ") {
			t.Errorf("%s:\n%q", name, text)
		}
	}
}
