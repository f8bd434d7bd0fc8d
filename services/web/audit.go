package web

import (
	"context"
	"log/slog"
	"net/netip"
	"sync"
	"time"

	"github.com/gofiber/fiber/v2"
)

// auditEvent is what a line of the audit log records. The texts are fixed, so that operators can search for them.
type auditEvent struct {
	name    string // the field event
	level   slog.Level
	message string
}

// The events of accounts. Each is one line of the log, except that refusals are counted: see refusalLog.
var (
	auditLogin           = auditEvent{"login", slog.LevelInfo, "user logged in"}
	auditLoginFailed     = auditEvent{"login-failed", slog.LevelWarn, "wrong email or password"}
	auditLoginRefused    = auditEvent{"login-refused", slog.LevelWarn, "log-in refused by a limit"}
	auditLogout          = auditEvent{"logout", slog.LevelInfo, "user logged out"}
	auditSignup          = auditEvent{"signup", slog.LevelInfo, "user signed up"}
	auditSignupRefused   = auditEvent{"signup-refused", slog.LevelWarn, "sign-up refused by a limit"}
	auditPasswordChanged = auditEvent{"password-changed", slog.LevelInfo, "password changed"}
	auditSessionsEnded   = auditEvent{"sessions-ended", slog.LevelInfo, "user ended sessions on other browsers"}
	auditAccountDeleted  = auditEvent{"account-deleted", slog.LevelInfo, "account deleted"}
	auditProductRefused  = auditEvent{"product-refused", slog.LevelWarn, "change of products refused by a limit"}
)

// audit writes a line about the account of an email. It has neither passwords nor cookies nor session ids. The handlers of
// log/slog quote control characters, and emails have none (see visibleText), so no text of a client begins a line.
func (s *Site) audit(c *fiber.Ctx, e auditEvent, email string) {
	s.log.LogAttrs(context.Background(), e.level, e.message, auditAttrs(c, e, email)...)
}

// auditRefusal writes a line about an act that a limit has refused.
func (s *Site) auditRefusal(c *fiber.Ctx, e auditEvent, email string) {
	s.refusals.add(s.log, auditAddress(c), func() {
		s.log.LogAttrs(context.Background(), e.level, e.message, auditAttrs(c, e, email)...)
	})
}

func auditAttrs(c *fiber.Ctx, e auditEvent, email string) []slog.Attr {
	return []slog.Attr{
		slog.String("event", e.name), slog.String("email", email), slog.String("client", auditAddress(c)),
		slog.String("request", requestID(c)),
	}
}

// auditAddress is the client's address, or "unknown" where a proxy has sent a text that is none.
func auditAddress(c *fiber.Ctx) string {
	address, err := netip.ParseAddr(clientAddress(c))
	if err != nil {
		return "unknown"
	}
	return address.WithZone("").String()
}

// refusalInterval is the time between two lines about the refusals of one address.
const refusalInterval = time.Second

// refusalLog limits the lines about refusals to one for each address in refusalInterval: a refusal costs the client nothing,
// and could fill the log. The zero value is ready for use.
type refusalLog struct {
	mu sync.Mutex
	// counts has the addresses with a line in the last interval, and how many refusals have come since that line.
	counts map[string]int
}

// add writes the refusal at once, or counts it: the next line about the address has the number.
func (l *refusalLog) add(log *slog.Logger, client string, write func()) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if _, recent := l.counts[client]; recent {
		l.counts[client]++
		return
	}
	if l.counts == nil {
		l.counts = make(map[string]int)
	}
	l.counts[client] = 0
	write()
	time.AfterFunc(refusalInterval, func() { l.flush(log, client) })
}

// flush writes how many more refusals of an address there were, until an interval has passed without one.
func (l *refusalLog) flush(log *slog.Logger, client string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	n := l.counts[client]
	if n == 0 {
		delete(l.counts, client)
		return
	}
	l.counts[client] = 0
	log.Warn("more refused by limits", "event", "refused", "client", client, "count", n)
	time.AfterFunc(refusalInterval, func() { l.flush(log, client) })
}
