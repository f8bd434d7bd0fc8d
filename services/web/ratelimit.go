package web

import (
	"context"
	"crypto/sha256"
	"fmt"
	"math"
	"strconv"
	"sync"
	"time"

	"github.com/gofiber/fiber/v2"
	"golang.org/x/sync/errgroup"

	"balanza/services/store"
)

// The windows of time in which the budgets count. Windows begin at fixed times, the same for all processes.
const (
	loginWindow  = 5 * time.Minute
	signupWindow = time.Hour
	changeWindow = time.Minute // of products
)

// budget is how often something may happen in a window. All processes count in one counter of the store.
type budget struct {
	name   string // what happens, and to whom
	limit  int
	window time.Duration
}

// errTooMany is the error of an act that a budget refuses until the end of its window.
func errTooMany(text string, left time.Duration) *httpError {
	return &httpError{
		status:     fiber.StatusTooManyRequests,
		code:       codeTooMany,
		text:       text,
		retryAfter: max(1, int(math.Ceil(left.Seconds()))),
	}
}

// end is the end of the window at a time.
func (b budget) end(now time.Time) time.Time { return now.Truncate(b.window).Add(b.window) }

// key is the counter of the window at a time.
func (b budget) key(now time.Time) string {
	return b.name + "/" + strconv.FormatInt(b.end(now).Unix(), 36)
}

// count adds n to the counter of the window at a time, and returns its value.
func (s *Site) count(ctx context.Context, b budget, now time.Time, n int) (int, error) {
	return s.config.Store.Count(ctx, b.key(now), n, b.end(now))
}

// countAll is count for several budgets at the same time.
func (s *Site) countAll(ctx context.Context, budgets []budget, now time.Time, n int) ([]int, error) {
	values := make([]int, len(budgets))
	var calls errgroup.Group
	for i, b := range budgets {
		calls.Go(func() (err error) {
			values[i], err = s.count(ctx, b, now, n)
			return err
		})
	}
	return values, calls.Wait()
}

// spend counts an act and fails with errTooMany(text) when its budget is used up. A refused act writes nothing: the counter
// is read first. Of acts at the same time that together exceed the budget, those above it are counted too.
func (s *Site) spend(ctx context.Context, b budget, text string) error {
	now, err := s.now(ctx)
	if err != nil {
		return err
	}
	refused := errTooMany(text, b.end(now).Sub(now))
	if s.usedUp.has(b.key(now), now) {
		return refused
	}
	for _, n := range []int{0, 1} {
		spent, err := s.count(ctx, b, now, n)
		if err != nil {
			return err
		}
		if spent+1-n > b.limit {
			s.usedUp.add(b.key(now), b.end(now), now)
			return refused
		}
	}
	return nil
}

// maxUsedUp is how many used-up budgets a process remembers.
const maxUsedUp = 10_000

// usedUp remembers the budgets that are used up until their windows end, so that refusing does not even read the store. The
// zero value is empty.
type usedUp struct {
	mu    sync.Mutex
	until map[string]time.Time // by key
}

func (u *usedUp) has(key string, now time.Time) bool {
	u.mu.Lock()
	defer u.mu.Unlock()
	return u.until[key].After(now)
}

// add remembers a key until its end. Where there is no room after the removal of those that have ended, it forgets the rest:
// the store still has their counters.
func (u *usedUp) add(key string, end, now time.Time) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if len(u.until) >= maxUsedUp {
		for k, until := range u.until {
			if !until.After(now) {
				delete(u.until, k)
			}
		}
	}
	if u.until == nil || len(u.until) >= maxUsedUp {
		u.until = make(map[string]time.Time)
	}
	u.until[key] = end
}

// loginAttempt is one comparison of a password, which is counted before it is made, so that attempts at the same time cannot
// exceed a limit.
type loginAttempt struct {
	site    *Site
	start   time.Time
	budgets []budget
}

// attemptKey names the budget of the attempts from an address for an email.
func attemptKey(address, email string) string {
	return fmt.Sprintf("login/%s/%x", address, sha256.Sum256([]byte(email)))
}

// beginLogin counts an attempt to log in. It fails with 429 when too many have failed:
//   - From a browser that has logged in to the account before, which its device cookie shows, at most Limits.Logins in a
//     window, whatever others do at the same address.
//   - From any other, at most Limits.Logins for one email from one address, and Limits.LoginFailures from one address. Above
//     the latter an email that has not failed from this address in this window has its first try all the same: nobody
//     can lock out others who share the address.
//
// What is refused writes nothing. (OWASP, "Slow Down Online Guessing Attacks with Device Cookies".)
func (s *Site) beginLogin(ctx context.Context, c *fiber.Ctx, email string, user store.User) (*loginAttempt, error) {
	now, err := s.now(ctx)
	if err != nil {
		return nil, err
	}
	address := network(clientAddress(c))
	a := &loginAttempt{site: s, start: now}
	if device := s.deviceID(c); hasDevice(user, device) {
		a.budgets = []budget{{"device/" + device, s.config.Limits.Logins, loginWindow}}
	} else {
		a.budgets = []budget{
			{attemptKey(address, email), s.config.Limits.Logins, loginWindow},
			{"login/" + address, s.config.Limits.LoginFailures, loginWindow},
		}
	}
	own := a.budgets[0]
	refuse := func() error {
		s.usedUp.add(own.key(now), own.end(now), now)
		return errTooMany("error.attempts", own.end(now).Sub(now))
	}
	if s.usedUp.has(own.key(now), now) {
		return nil, refuse()
	}
	failed, err := s.countAll(ctx, a.budgets, now, 0)
	if err != nil {
		return nil, err
	}
	if exceeds(a.budgets, failed, 1) {
		return nil, refuse()
	}
	spent, err := s.countAll(ctx, a.budgets, now, 1)
	if err != nil {
		return nil, err
	}
	if exceeds(a.budgets, spent, 0) { // by attempts at the same time
		if err := a.undo(ctx); err != nil {
			return nil, err
		}
		return nil, refuse()
	}
	return a, nil
}

// exceeds reports whether more attempts than the budgets allow have been counted after that many more: too many for the
// email, or too many from the address, unless it is the email's first one.
func exceeds(budgets []budget, counted []int, more int) bool {
	own := counted[0] + more
	if own > budgets[0].limit {
		return true
	}
	return len(budgets) > 1 && counted[1]+more > budgets[1].limit && own > 1
}

// undo takes the attempt off the counts, after a success.
func (a *loginAttempt) undo(ctx context.Context) error {
	if _, err := a.site.countAll(ctx, a.budgets, a.start, -1); err != nil {
		return fmt.Errorf("undo the count of a log-in: %w", err)
	}
	return nil
}
