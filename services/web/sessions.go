package web

import (
	"context"
	"errors"
	"maps"
	"slices"
	"time"

	"github.com/fasthttp/websocket"
	"github.com/gofiber/fiber/v2"
	"golang.org/x/sync/errgroup"

	"balanza/services/store"
)

const (
	sessionLength = 10 * time.Minute // from the last access
	maxSession    = 12 * time.Hour   // from the log-in, whatever is done meanwhile
	maxAgent      = 200              // bytes that are kept of the browser's User-Agent
	touchInterval = time.Second      // accesses within it extend the session once: most requests write nothing
	// storeTimeout limits all calls of the store in one request, so that a 503 comes within 3 s.
	storeTimeout = 2500 * time.Millisecond

	// recheckInterval is the time between two look-ups of the sessions of open websockets: a session that was deleted in
	// the database itself, without a log entry, ends its websockets too.
	recheckInterval = 2 * time.Second
	maxLookup       = 200 // sessions of one look-up
)

var errLoginRequired = &httpError{status: fiber.StatusUnauthorized, code: codeUnauthorised, text: "error.login"}

// storeContext is the context of a request's calls of the store. It ends after storeTimeout or with the drain, and not
// with the client's connection: a change that has started is completed.
func (s *Site) storeContext() (context.Context, context.CancelFunc) {
	return context.WithTimeout(s.work, storeTimeout)
}

// now is the time by which sessions and limits are judged. It fails with store.ErrUnavailable.
func (s *Site) now(ctx context.Context) (time.Time, error) { return s.config.Clock.Now(ctx) }

// cookieName returns the session cookie's name. Browsers accept __Host- names only over TLS and for exactly this host.
func (s *Site) cookieName(c *fiber.Ctx) string {
	if secure(c) {
		return "__Host-" + s.config.Cookie
	}
	return s.config.Cookie
}

// setCookie sets the session cookie; an empty value deletes it.
func (s *Site) setCookie(c *fiber.Ctx, value string) {
	cookie := fiber.Cookie{
		Name:        s.cookieName(c),
		Value:       value,
		Path:        "/",
		Secure:      secure(c),
		HTTPOnly:    true,
		SameSite:    fiber.CookieSameSiteLaxMode,
		SessionOnly: true, // the store decides when it ends
	}
	if value == "" {
		cookie.SessionOnly, cookie.MaxAge, cookie.Expires = false, -1, time.Unix(0, 0)
	}
	c.Cookie(&cookie)
}

// sessionID returns the id of the session of the cookie, which is the hash of its value, empty when there is no cookie or
// its value is no token.
func (s *Site) sessionID(c *fiber.Ctx) string {
	token := string(c.Request().Header.Cookie(s.cookieName(c)))
	if !store.IsToken(token) {
		return ""
	}
	return store.HashToken(token)
}

// currentSession returns the session of a request and extends it. It fails with errLoginRequired.
func (s *Site) currentSession(ctx context.Context, c *fiber.Ctx) (store.Session, error) {
	id := s.sessionID(c)
	if id == "" {
		return store.Session{}, errLoginRequired
	}
	now, err := s.now(ctx)
	if err != nil {
		return store.Session{}, err
	}
	session, err := s.config.Store.Session(ctx, id, now)
	if errors.Is(err, store.ErrNotFound) {
		return store.Session{}, errLoginRequired
	}
	if err == nil {
		err = s.touchSession(ctx, &session)
	}
	return session, err
}

// expiry is when a session that is used now ends.
func expiry(created, now time.Time) time.Time {
	idle, absolute := now.Add(sessionLength), created.Add(maxSession)
	if absolute.Before(idle) {
		return absolute
	}
	return idle
}

// touchSession extends a session from now, unless that was done within touchInterval. It updates session and the store.
func (s *Site) touchSession(ctx context.Context, session *store.Session) error {
	now, err := s.now(ctx)
	if err != nil {
		return err
	}
	expires := expiry(session.Created, now)
	if expires.Sub(session.Expires) < touchInterval {
		return nil
	}
	session.Expires = expires
	return s.config.Store.TouchSession(ctx, session.ID, expires)
}

// startSession starts a session with a new id, in place of the request's session: an id that somebody else has put into
// the browser never becomes a logged-in one (session fixation).
func (s *Site) startSession(ctx context.Context, c *fiber.Ctx, user store.User) error {
	if old := s.sessionID(c); old != "" {
		if err := s.endSession(ctx, old); err != nil {
			return err
		}
	}
	now, err := s.now(ctx)
	if err != nil {
		return err
	}
	token := store.NewToken()
	err = s.config.Store.CreateSession(ctx, store.Session{
		ID:         store.HashToken(token),
		Email:      user.Email,
		Generation: user.Generation,
		Created:    now,
		Expires:    expiry(now, now),
		Agent:      cut(visible(c.Get(fiber.HeaderUserAgent)), maxAgent),
		Address:    visible(clientAddress(c)),
	})
	if err != nil {
		return err
	}
	s.setCookie(c, token)
	return nil
}

// endSession deletes a session and closes its websockets.
func (s *Site) endSession(ctx context.Context, id string) error {
	if err := s.config.Store.DeleteSession(ctx, id); err != nil {
		return err
	}
	s.announceEnd(ctx, id)
	return nil
}

// announceEnd appends an entry for each of the sessions, which are deleted, at which every process closes their websockets.
// Without an entry they are closed all the same, by watchSessions, so that a failure to append is no error. That also
// closes those of the sessions beyond maxLookup, which no browser has.
func (s *Site) announceEnd(ctx context.Context, ids ...string) {
	var appends errgroup.Group // the log stores those of one moment together
	for _, id := range ids[:min(len(ids), maxLookup)] {
		appends.Go(func() error {
			_, err := s.config.Log.Append(ctx, store.Entry{Kind: store.LoggedOut, Subject: id})
			return err
		})
	}
	if err := appends.Wait(); err != nil {
		s.log.Warn("log-out not in the log; other processes find it at their next look-up", "error", err)
	}
}

// loggedIn wraps a handler that needs a session: without one pages redirect to the log-in, other clients get 401.
func (s *Site) loggedIn(h func(context.Context, *fiber.Ctx, store.Session) error) fiber.Handler {
	return func(c *fiber.Ctx) error {
		ctx, end, err := s.acquireStoreSlot(c)
		if err != nil {
			return err
		}
		defer end()
		session, err := s.currentSession(ctx, c)
		if err != nil {
			return err
		}
		return h(ctx, c, session)
	}
}

// watchSessions ends the websockets of sessions that have ended, until ctx ends.
func (s *Site) watchSessions(ctx context.Context) {
	tick := time.NewTicker(recheckInterval)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		open := make(map[string][]*client) // by session
		for _, c := range s.clients.all() {
			open[c.session.ID] = append(open[c.session.ID], c)
		}
		chunks := slices.Collect(slices.Chunk(slices.Collect(maps.Keys(open)), maxLookup))
		for _, ids := range chunks {
			s.endExpired(ctx, ids, open)
			select { // thousands of look-ups at once would delay other requests
			case <-ctx.Done():
				return
			case <-time.After(recheckInterval / 2 / time.Duration(len(chunks))):
			}
		}
	}
}

// endExpired ends the websockets of those of the sessions that have ended.
func (s *Site) endExpired(ctx context.Context, ids []string, open map[string][]*client) {
	now, err := s.now(ctx)
	if err != nil {
		return // nothing is known about them; they are looked up again soon
	}
	live, err := s.config.Store.LiveSessions(ctx, ids, now)
	if err != nil {
		return
	}
	alive := make(map[string]bool, len(live))
	for _, id := range live {
		alive[id] = true
	}
	for _, id := range ids {
		if alive[id] {
			continue
		}
		for _, c := range open[id] {
			c.end(websocket.ClosePolicyViolation, sessionEnded)
		}
	}
}
