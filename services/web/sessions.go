package web

import (
	"context"
	"crypto/rand"
	"encoding/base64"
	"errors"
	"time"

	"github.com/gofiber/fiber/v2"

	"balanza/services/store"
)

const (
	sessionLength = 10 * time.Minute // from the last access
	touchEvery    = time.Second      // several accesses within this move the end once
	// patience is how long a request asks the store in all, so that it can say within 3 s that it does not answer.
	patience = 2500 * time.Millisecond
)

var loginNeeded = &failure{status: fiber.StatusUnauthorized, code: codeUnauthorised, text: "error.login"}

// asking bounds what a request asks of the store.
func (s *Site) asking() (context.Context, context.CancelFunc) {
	return context.WithTimeout(s.work, patience)
}

// cookieName: with __Host- browsers accept the cookie by TLS only and for this host alone.
func cookieName(secure bool) string {
	if secure {
		return "__Host-balanza"
	}
	return "balanza"
}

func setCookie(c *fiber.Ctx, value string) {
	cookie := fiber.Cookie{
		Name:        cookieName(secure(c)),
		Value:       value,
		Path:        "/",
		Secure:      secure(c),
		HTTPOnly:    true,
		SameSite:    fiber.CookieSameSiteLaxMode,
		SessionOnly: true, // the store knows when it ends
	}
	if value == "" {
		cookie.SessionOnly, cookie.MaxAge, cookie.Expires = false, -1, time.Unix(0, 0)
	}
	c.Cookie(&cookie)
}

// sessionID gives what the cookie says, or nothing when it cannot be one of ours.
func sessionID(c *fiber.Ctx) string {
	id := string(c.Request().Header.Cookie(cookieName(secure(c))))
	if b, err := base64.RawURLEncoding.DecodeString(id); err != nil || len(b) != 32 {
		return ""
	}
	return id
}

// session gives the session of a request and moves its end. It fails with loginNeeded.
func (s *Site) session(ctx context.Context, c *fiber.Ctx) (store.Session, error) {
	id := sessionID(c)
	if id == "" {
		return store.Session{}, loginNeeded
	}
	session, err := s.config.Store.Session(ctx, id, time.Now())
	if errors.Is(err, store.ErrNotFound) {
		return store.Session{}, loginNeeded
	}
	if err == nil {
		err = s.touch(ctx, &session)
	}
	return session, err
}

func (s *Site) touch(ctx context.Context, session *store.Session) error {
	expires := time.Now().Add(sessionLength)
	if expires.Sub(session.Expires) < touchEvery {
		return nil
	}
	session.Expires = expires
	return s.config.Store.TouchSession(ctx, session.ID, expires)
}

// open begins a new session, which takes the place of the one that the request came with: an id that somebody else may
// have planted in the browser never becomes a logged-in one.
func (s *Site) open(ctx context.Context, c *fiber.Ctx, email string) error {
	if old := sessionID(c); old != "" {
		if err := s.close(ctx, old); err != nil {
			return err
		}
	}
	var random [32]byte
	_, _ = rand.Read(random[:]) // never fails
	session := store.Session{
		ID:      base64.RawURLEncoding.EncodeToString(random[:]),
		Email:   email,
		Expires: time.Now().Add(sessionLength),
	}
	if err := s.config.Store.CreateSession(ctx, session); err != nil {
		return err
	}
	setCookie(c, session.ID)
	return nil
}

// close ends a session and tells every process, whose websockets of that session end then.
func (s *Site) close(ctx context.Context, id string) error {
	if err := s.config.Store.DeleteSession(ctx, id); err != nil {
		return err
	}
	if _, err := s.config.Log.Append(ctx, store.Entry{Kind: store.LoggedOut, Subject: id}); err != nil {
		s.log.Warn("log-out not told; other processes will find it by themselves", "error", err)
	}
	return nil
}

// loggedIn wraps what only a user may ask: pages lead to the log-in, others get 401.
func (s *Site) loggedIn(h func(*fiber.Ctx, store.Session) error) fiber.Handler {
	return func(c *fiber.Ctx) error {
		ctx, cancel := s.asking()
		defer cancel()
		session, err := s.session(ctx, c)
		if err != nil {
			return err
		}
		return h(c, session)
	}
}
