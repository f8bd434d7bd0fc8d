package web

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/gofiber/fiber/v2"

	"balanza/services/store"
)

// maxListed is how many of a user's sessions /account shows, the latest ones.
const maxListed = 50

// errWrongPassword rejects a change of the account: the session is valid, the password is not.
var errWrongPassword = &httpError{
	status: fiber.StatusForbidden, code: codeUnauthorised, text: "error.wrongpassword", field: "password",
}

// Account is the data of /account. Its JSON is the answer to clients that ask for JSON.
type Account struct {
	Email    string          `json:"email"`
	Sessions []ListedSession `json:"sessions"` // the latest first
	Form     string          `json:"-"`        // the form that has an error: password or delete
	Done     string          `json:"-"`        // key of the text that says what was done
}

// ListedSession is one of a user's sessions. Its times are UTC.
type ListedSession struct {
	ID       string    `json:"id"` // the hash of the cookie's value, with which nobody can use the session
	Started  time.Time `json:"started"`
	LastUsed time.Time `json:"lastUsed"`
	Expires  time.Time `json:"expires"` // if it is not used
	Ends     time.Time `json:"ends"`    // even if it is
	Agent    string    `json:"agent"`
	Address  string    `json:"address"`
	Current  bool      `json:"current"` // the one of the request

	now time.Time
}

// Browser names the browser and its system in a few words.
func (l ListedSession) Browser() string { return browserName(l.Agent) }

// Ago is the time since the log-in. The page shows durations: it does not know the reader's time zone.
func (l ListedSession) Ago() string { return duration(l.now.Sub(l.Started)) }

// UsedAgo is the time since the last access.
func (l ListedSession) UsedAgo() string { return duration(l.now.Sub(l.LastUsed)) }

// EndsIn is the time until the session ends whatever is done.
func (l ListedSession) EndsIn() string { return duration(l.Ends.Sub(l.now)) }

// duration shows hours and minutes, in words of both languages.
func duration(d time.Duration) string {
	minutes := int(d.Minutes())
	switch {
	case minutes < 1:
		return "< 1 min"
	case minutes < 60:
		return fmt.Sprintf("%d min", minutes)
	}
	return fmt.Sprintf("%d h %d min", minutes/60, minutes%60)
}

// browserName finds the browser and the system in a User-Agent. Each has the names of others too, so the order matters.
func browserName(agent string) string {
	var found []string
	for _, names := range [][]string{
		{"Edg/", "OPR/", "SamsungBrowser/", "Firefox/", "FxiOS/", "CriOS/", "Chrome/", "Safari/"},
		{"Android", "iPhone", "iPad", "Windows", "Mac OS X", "CrOS", "Linux"},
	} {
		i := slices.IndexFunc(names, func(name string) bool { return strings.Contains(agent, name) })
		if i < 0 {
			return cut(agent, 40) // another program
		}
		name := strings.TrimSuffix(names[i], "/")
		if long, ok := longNames[name]; ok {
			name = long
		}
		found = append(found, name)
	}
	return strings.Join(found, " · ")
}

// longNames are the usual names of those that a User-Agent shortens.
var longNames = map[string]string{
	"Edg": "Edge", "OPR": "Opera", "SamsungBrowser": "Samsung Internet", "FxiOS": "Firefox", "CriOS": "Chrome",
	"Mac OS X": "macOS", "CrOS": "ChromeOS",
}

// accountDone are the values of the query parameter done: what the form before this page has done.
var accountDone = map[string]string{"password": "account.done.password", "sessions": "account.done.sessions"}

// showAccount shows the account. It says what was done only to requests of its own forms: a link of another site could say
// that the password was changed.
func (s *Site) showAccount(ctx context.Context, c *fiber.Ctx, session store.Session) error {
	account, err := s.account(ctx, session)
	if err != nil {
		return err
	}
	if wantsJSON(c, false) {
		return sendUncached(c, account)
	}
	if checkFetchSite(c) == nil {
		account.Done = accountDone[c.Query("done")]
	}
	return s.show(c, "account", Page{Email: session.Email, Data: account})
}

// account reads the user's sessions.
func (s *Site) account(ctx context.Context, session store.Session) (Account, error) {
	a := Account{Email: session.Email}
	now, err := s.now(ctx)
	if err != nil {
		return a, err
	}
	sessions, err := s.config.Store.SessionsOf(ctx, session.Email, now, maxListed)
	for _, one := range sessions {
		a.Sessions = append(a.Sessions, ListedSession{
			ID:       one.ID,
			Started:  one.Created,
			LastUsed: one.Expires.Add(-sessionLength),
			Expires:  one.Expires,
			Ends:     one.Created.Add(maxSession),
			Agent:    one.Agent,
			Address:  one.Address,
			Current:  one.ID == session.ID,
			now:      now,
		})
	}
	return a, err
}

// accountAction handles a form of /account, which has that name. A wrong field is shown at the form; after the change
// browsers are redirected to the page that act returns, and other clients get {"email": …}.
func (s *Site) accountAction(
	name string, act func(*fiber.Ctx, *form, store.Session) (location string, err error),
) fiber.Handler {
	return func(c *fiber.Ctx) error {
		session, err := s.readSession(c)
		if err != nil {
			return err
		}
		f, err := readForm(c)
		if err != nil {
			return err
		}
		location, err := act(c, f, session)
		if e, ok := errors.AsType[*httpError](err); ok && e.field != "" && !acceptsJSON(c) {
			return s.redisplayAccount(c, name, session, e)
		}
		switch {
		case err != nil:
			return err
		case acceptsJSON(c):
			return c.JSON(fiber.Map{"email": session.Email})
		}
		return c.Redirect(location, fiber.StatusSeeOther)
	}
}

// readSession is currentSession with a context of its own: hashing a password may take longer than one.
func (s *Site) readSession(c *fiber.Ctx) (store.Session, error) {
	ctx, cancel := s.storeContext()
	defer cancel()
	return s.currentSession(ctx, c)
}

// redisplayAccount shows the account with an error at one of its forms.
func (s *Site) redisplayAccount(c *fiber.Ctx, name string, session store.Session, e *httpError) error {
	ctx, cancel := s.storeContext()
	defer cancel()
	account, err := s.account(ctx, session)
	if err != nil {
		return err
	}
	account.Form = name
	c.Status(e.status)
	return s.show(c, "account", Page{
		Email: session.Email, Error: s.texts[lang(c)].format(e.text, e.args...), Field: e.field, Data: account,
	})
}

// verifyOwner fails with errWrongPassword unless the form has the password of the session's user. The attempt counts like a
// log-in: whoever has found an open browser cannot try passwords without limit.
func (s *Site) verifyOwner(c *fiber.Ctx, f *form, session store.Session) (store.User, error) {
	password := f.password("password")
	if f.err != nil {
		return store.User{}, f.err
	}
	user, err := s.verify(c, session.Email, password)
	if err == errWrongCredentials {
		err = errWrongPassword
	}
	return user, err
}

// changePassword ends all sessions, since they belong to the old password, and starts a new one for this browser, which
// also becomes the only one that is known.
func (s *Site) changePassword(c *fiber.Ctx, f *form, session store.Session) (string, error) {
	password, ok := f.values["new"].(string)
	if !ok {
		f.fail("new", "error.password", minPassword, maxPassword)
	}
	user, err := s.verifyOwner(c, f, session)
	if err != nil {
		return "", err
	}
	author := user.Author
	if err := checkStrength("new", password, author.ID, author.Nombre, author.Apellido, author.Alias); err != nil {
		return "", err
	}
	t, err := s.hashers.enter(loginLane, s.hashClient(c, user))
	if err != nil {
		return "", err
	}
	defer t.close()
	hash, err := t.hash(s.work, password)
	if err != nil {
		return "", err
	}
	ctx, cancel := s.storeContext()
	defer cancel()
	user.Generation = rand.Text()
	if err := s.config.Store.SetPassword(ctx, user.Email, hash, user.Generation, []string{s.newDevice(c)}); err != nil {
		return "", err
	}
	s.audit(c, auditPasswordChanged, user.Email)
	ended, err := s.config.Store.DeleteSessionsOf(ctx, user.Email, session.ID)
	if err != nil {
		return "", err
	}
	s.announceEnd(ctx, ended...)
	return "/account?done=password", s.startSession(ctx, c, user) // it ends the session of the request
}

// endSessions ends the user's session of the form's id, or without an id all but this one.
func (s *Site) endSessions(c *fiber.Ctx, f *form, session store.Session) (string, error) {
	id := f.text("id", 0, len(session.ID))
	if f.err != nil {
		return "", f.err
	}
	ctx, cancel := s.storeContext()
	defer cancel()
	var err error
	if id == "" {
		var ended []string
		ended, err = s.config.Store.DeleteSessionsOf(ctx, session.Email, session.ID)
		s.announceEnd(ctx, ended...)
	} else {
		err = s.endOwnSession(ctx, session, id)
	}
	if err != nil {
		return "", err
	}
	s.audit(c, auditSessionsEnded, session.Email)
	if id == session.ID {
		s.setCookie(c, "")
		return "/login", nil
	}
	return "/account?done=sessions", nil
}

// endOwnSession ends a session of the same user. One that has ended, or that is another user's, is left alone.
func (s *Site) endOwnSession(ctx context.Context, session store.Session, id string) error {
	now, err := s.now(ctx)
	if err != nil {
		return err
	}
	one, err := s.config.Store.Session(ctx, id, now)
	if errors.Is(err, store.ErrNotFound) || err == nil && one.Email != session.Email {
		return nil
	}
	if err != nil {
		return err
	}
	return s.endSession(ctx, id)
}

// deleteAccount deletes the user and all sessions. Messages and products stay: others have answered and use them.
func (s *Site) deleteAccount(c *fiber.Ctx, f *form, session store.Session) (string, error) {
	user, err := s.verifyOwner(c, f, session)
	if err != nil {
		return "", err
	}
	ctx, cancel := s.storeContext()
	defer cancel()
	ended, err := s.config.Store.DeleteUser(ctx, user.Email)
	if err != nil {
		return "", err
	}
	s.announceEnd(ctx, ended...)
	s.audit(c, auditAccountDeleted, user.Email)
	s.setCookie(c, "")
	return "/account/deleted", nil
}
