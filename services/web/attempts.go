package web

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"math"
	"net/netip"
	"strconv"
	"strings"
	"time"

	"github.com/gofiber/fiber/v2"
)

const (
	attemptWindow   = 5 * time.Minute
	attemptsOnEmail = 10  // failed log-ins from one address for one email in a window
	attemptsInAll   = 100 // failed log-ins from one address in a window
)

// attempt counts a try to log in before it is made, in the store and so over all processes. It refuses when the
// client's address made too many. Nobody can lock out who comes from another address. What it returns takes the try off
// the count again.
func (s *Site) attempt(
	ctx context.Context, c *fiber.Ctx, email string,
) (forget func(context.Context) error, err error) {
	now := time.Now()
	end := now.Truncate(attemptWindow).Add(attemptWindow)
	start := "login/" + strconv.FormatInt(end.Unix(), 36) + "/" + network(clientAddress(c))
	sum := sha256.Sum256([]byte(email))
	limits := []struct {
		key   string
		limit int
	}{
		{start + "/" + hex.EncodeToString(sum[:]), attemptsOnEmail},
		{start, attemptsInAll},
	}
	for _, l := range limits {
		n, err := s.config.Store.Count(ctx, l.key, 1, end)
		if err != nil {
			return nil, err
		}
		if n > l.limit {
			return nil, &failure{
				status: fiber.StatusTooManyRequests,
				code:   codeTooMany,
				text:   "error.attempts",
				wait:   int(math.Ceil(end.Sub(now).Seconds())),
			}
		}
	}
	return func(ctx context.Context) error {
		for _, l := range limits {
			if _, err := s.config.Store.Count(ctx, l.key, -1, end); err != nil {
				return fmt.Errorf("forgetting an attempt: %w", err)
			}
		}
		return nil
	}, nil
}

// clientAddress is who asks: of what a trusted proxy says, the last address, for the proxy itself added that one.
func clientAddress(c *fiber.Ctx) string {
	if lines := c.Request().Header.PeekAll(fiber.HeaderXForwardedFor); len(lines) > 0 && c.IsProxyTrusted() {
		chain := string(lines[len(lines)-1])
		return strings.TrimSpace(chain[strings.LastIndexByte(chain, ',')+1:])
	}
	return c.Context().RemoteIP().String()
}

// network is what one client can be taken to own: an IPv4 address, or an IPv6 network of 64 bits.
func network(address string) string {
	ip, err := netip.ParseAddr(address)
	if err != nil {
		return "unknown"
	}
	ip = ip.Unmap().WithZone("")
	if ip.Is4() {
		return ip.String()
	}
	prefix, _ := ip.Prefix(64) // an IPv6 address has 64 bits
	return prefix.String()
}
