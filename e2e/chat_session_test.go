package e2e

import (
	"context"
	"errors"
	"io"
	"net/http"
	"net/url"
	"path/filepath"
	"testing"
	"time"

	"github.com/gorilla/websocket"

	"balanza/services/store"
	"balanza/services/store/sqlitestore"
)

// A session ends wherever its websocket hangs: by a log-out on another worker, and by its deletion from the database.
func TestSessionEndsEverywhere(t *testing.T) {
	home := t.TempDir()
	s := serve(t, home, "--m", "CLUSTER", "-i", "2")
	db, err := sqlitestore.Open(t.Context(), filepath.Join(home, "data", "balanza.db"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { db.Close() })
	endSession(t, s.url, db)
}

func TestSessionEndsEverywhereOnMongoDB(t *testing.T) {
	m := runMongod(t)
	endSession(t, serve(t, m.home(), "--m", "CLUSTER", "-i", "2").url, m.open())
}

func endSession(t *testing.T, site string, db store.Store) {
	const within = 5 * time.Second
	u := newUser(t, site, "ana")
	cookies := sessionOf(t, u, site)
	conn, hangsOn := openSocket(t, u, site)
	// The connection stays with the worker that took it, so the log-out reaches the one that the next answer names.
	elsewhere := func() error {
		u.http.CloseIdleConnections()
		answer, err := u.http.Get(site + "/info?format=json")
		if err != nil {
			return err
		}
		defer answer.Body.Close()
		if _, err := io.Copy(io.Discard, answer.Body); err != nil { // else the connection is not used again
			return err
		}
		if answer.Header.Get("X-Balanza-Pid") == hangsOn {
			return errors.New("the worker of the websocket took the connection too")
		}
		return nil
	}
	eventually(t, "another worker", elsewhere)
	answer, err := u.post(site+"/logout", nil)
	if err != nil {
		t.Fatal(err)
	}
	left := time.Now()
	answer.Body.Close()
	if answer.StatusCode != http.StatusOK || answer.Header.Get("X-Balanza-Pid") == hangsOn {
		t.Fatalf("log-out: %s by process %s, the websocket's is %s", answer.Status, answer.Header.Get("X-Balanza-Pid"), hangsOn)
	}
	awaitGoodbye(t, conn)
	if took := time.Since(left); took > within {
		t.Errorf("the websocket was closed %v after the log-out", took)
	}
	there, err := url.Parse(site)
	if err != nil {
		t.Fatal(err)
	}
	u.http.Jar.SetCookies(there, cookies) // whoever kept a copy
	mustLogIn(t, u, site)

	other := newUser(t, site, "beto")
	conn, _ = openSocket(t, other, site)
	if err := db.DeleteSession(context.Background(), sessionOf(t, other, site)[0].Value); err != nil {
		t.Fatal(err)
	}
	deleted := time.Now()
	mustLogIn(t, other, site)
	awaitGoodbye(t, conn)
	if took := time.Since(deleted); took > within {
		t.Errorf("the websocket was closed %v after the session was deleted", took)
	}
}

// sessionOf is the user's cookie.
func sessionOf(t *testing.T, u *user, site string) []*http.Cookie {
	t.Helper()
	there, err := url.Parse(site)
	if err != nil {
		t.Fatal(err)
	}
	cookies := u.http.Jar.Cookies(there)
	if len(cookies) != 1 {
		t.Fatalf("cookies %v, want one", cookies)
	}
	return cookies
}

// openSocket opens a websocket, waits until it tells something, and names the process that has it.
func openSocket(t *testing.T, u *user, site string) (conn *websocket.Conn, pid string) {
	t.Helper()
	conn, answer, err := u.dial(t.Context(), site, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	if _, _, err := conn.ReadMessage(); err != nil {
		t.Fatal(err)
	}
	if pid = answer.Header.Get("X-Balanza-Pid"); pid == "" {
		t.Fatal("the websocket's answer names no process")
	}
	return conn, pid
}

// awaitGoodbye reads until the server closes the websocket for want of a session.
func awaitGoodbye(t *testing.T, conn *websocket.Conn) {
	t.Helper()
	_ = conn.SetReadDeadline(time.Now().Add(20 * time.Second))
	for {
		_, _, err := conn.ReadMessage()
		if websocket.IsCloseError(err, websocket.ClosePolicyViolation) {
			return
		}
		if err != nil {
			t.Fatalf("the websocket ended with %v", err)
		}
	}
}

// mustLogIn fails unless the start page sends the user to the log-in.
func mustLogIn(t *testing.T, u *user, site string) {
	t.Helper()
	answer, err := u.http.Get(site + "/")
	if err != nil {
		t.Fatal(err)
	}
	defer answer.Body.Close()
	if answer.StatusCode != http.StatusSeeOther || answer.Header.Get("Location") != "/login" {
		t.Errorf("without a session: %s to %q", answer.Status, answer.Header.Get("Location"))
	}
}
