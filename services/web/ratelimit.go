package web

import (
	"context"
	"crypto/sha256"
	"fmt"
	"math"
	"strconv"
	"time"

	"github.com/gofiber/fiber/v2"
)

const (
	loginWindow         = 5 * time.Minute
	maxLoginsPerEmail   = 10  // failed log-ins from one address for one email in a window
	maxLoginsPerAddress = 100 // failed log-ins from one address in a window
)

// countLogin counts an attempt to log in before the password is checked, in the store and so over all processes. It
// fails with 429 when the client's address has made too many; other addresses are not affected. The function that it
// returns takes the attempt off the count again.
func (s *Site) countLogin(ctx context.Context, c *fiber.Ctx, email string) (func(context.Context) error, error) {
	now, err := s.now(ctx)
	if err != nil {
		return nil, err
	}
	end := now.Truncate(loginWindow).Add(loginWindow)
	start := "login/" + strconv.FormatInt(end.Unix(), 36) + "/" + network(clientAddress(c))
	sum := sha256.Sum256([]byte(email))
	limits := []struct {
		key   string
		limit int
	}{
		{fmt.Sprintf("%s/%x", start, sum), maxLoginsPerEmail},
		{start, maxLoginsPerAddress},
	}
	for _, l := range limits {
		n, err := s.config.Store.Count(ctx, l.key, 1, end)
		if err != nil {
			return nil, err
		}
		if n > l.limit {
			return nil, &httpError{
				status:     fiber.StatusTooManyRequests,
				code:       codeTooMany,
				text:       "error.attempts",
				retryAfter: int(math.Ceil(end.Sub(now).Seconds())),
			}
		}
	}
	return func(ctx context.Context) error {
		for _, l := range limits {
			if _, err := s.config.Store.Count(ctx, l.key, -1, end); err != nil {
				return fmt.Errorf("undo the count of a log-in: %w", err)
			}
		}
		return nil
	}, nil
}
