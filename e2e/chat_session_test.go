package e2e

import (
	"context"
	"errors"
	"io"
	"net/http"
	"net/url"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/gorilla/websocket"

	"balanza/services/store"
	"balanza/services/store/sqlitestore"
)

// A session's websocket is closed, whichever worker has it, by a log-out on another worker and by the deletion of the session
// from the database.
func TestSessionEndsEverywhere(t *testing.T) {
	home := t.TempDir()
	s := serve(t, home, "--m", "CLUSTER", "-i", "2")
	db, err := sqlitestore.Open(t.Context(), filepath.Join(home, "data", "balanza.db"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { db.Close() })
	checkSessionEnd(t, s.url, db)
}

func TestSessionEndsEverywhereOnMongoDB(t *testing.T) {
	m := runMongod(t)
	checkSessionEnd(t, serve(t, m.home(), "--m", "CLUSTER", "-i", "2").url, m.open())
}

// checkSessionEnd ends one session by a log-out and another one in the database.
func checkSessionEnd(t *testing.T, site string, db store.Store) {
	const maxDelay = 5 * time.Second
	u := newUser(t, site, "ana")
	cookies := sessionCookies(t, u, site)
	conn, socketPid := openWebsocket(t, u, site)
	// The log-out uses the connection of this response and so reaches the same worker.
	connectToOther := func() error {
		u.http.CloseIdleConnections()
		answer, err := u.http.Get(site + "/info?format=json")
		if err != nil {
			return err
		}
		defer answer.Body.Close()
		if _, err := io.Copy(io.Discard, answer.Body); err != nil { // otherwise the connection is not used again
			return err
		}
		if answer.Header.Get("X-Balanza-Pid") == socketPid {
			return errors.New("the connection is on the worker that has the websocket")
		}
		return nil
	}
	eventually(t, "another worker", connectToOther)
	answer, err := u.post(site+"/logout", nil)
	if err != nil {
		t.Fatal(err)
	}
	loggedOut := time.Now()
	answer.Body.Close()
	if answer.StatusCode != http.StatusOK || answer.Header.Get("X-Balanza-Pid") == socketPid {
		t.Fatalf("log-out: %s by process %s, the websocket's is %s", answer.Status, answer.Header.Get("X-Balanza-Pid"), socketPid)
	}
	awaitPolicyClose(t, conn)
	if took := time.Since(loggedOut); took > maxDelay {
		t.Errorf("the websocket was closed %v after the log-out", took)
	}
	siteURL, err := url.Parse(site)
	if err != nil {
		t.Fatal(err)
	}
	u.http.Jar.SetCookies(siteURL, cookies) // a copy of the cookie
	checkLoggedOut(t, u, site)

	other := newUser(t, site, "beto")
	conn, _ = openWebsocket(t, other, site)
	if err := db.DeleteSession(context.Background(), store.HashToken(sessionCookies(t, other, site)[0].Value)); err != nil {
		t.Fatal(err)
	}
	deleted := time.Now()
	checkLoggedOut(t, other, site)
	awaitPolicyClose(t, conn)
	if took := time.Since(deleted); took > maxDelay {
		t.Errorf("the websocket was closed %v after the session was deleted", took)
	}
}

// sessionCookies returns a user's session cookie for the site, of which there must be exactly one.
func sessionCookies(t *testing.T, u *user, site string) []*http.Cookie {
	t.Helper()
	siteURL, err := url.Parse(site)
	if err != nil {
		t.Fatal(err)
	}
	cookies := slices.DeleteFunc(u.http.Jar.Cookies(siteURL), func(c *http.Cookie) bool { return strings.HasSuffix(c.Name, ".device") })
	if len(cookies) != 1 {
		t.Fatalf("cookies %v, want one", cookies)
	}
	return cookies
}

// openWebsocket opens a websocket, waits for its first frame, and returns the pid of the process that has it.
func openWebsocket(t *testing.T, u *user, site string) (conn *websocket.Conn, pid string) {
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

// awaitPolicyClose reads until the server closes the websocket with code 1008, as it does when the session has ended.
func awaitPolicyClose(t *testing.T, conn *websocket.Conn) {
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

// checkLoggedOut fails the test unless the start page redirects the user to the log-in page.
func checkLoggedOut(t *testing.T, u *user, site string) {
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
