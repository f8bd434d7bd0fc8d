package web

import (
	"context"
	"fmt"

	"github.com/gofiber/fiber/v2"

	"balanza/services/chat"
	"balanza/services/store"
)

const (
	defaultHistory = 100 // messages of one answer
	maxHistory     = 200
	maxNumber      = 1 << 53 // JavaScript's numbers are exact up to here
)

// messages answers with the last messages before a number in the normalised form. The header Link has the address of those
// before these, if there may be any.
func (s *Site) messages(ctx context.Context, c *fiber.Ctx, _ store.Session) error {
	before, err := queryNumber(c, "before", 1, maxNumber, maxNumber)
	if err != nil {
		return err
	}
	limit, err := queryNumber(c, "limit", 1, maxHistory, defaultHistory)
	if err != nil {
		return err
	}
	entries, next, err := s.hub.History(ctx, before, int(limit))
	if err != nil {
		return err
	}
	if next > 0 {
		c.Set(fiber.HeaderLink, fmt.Sprintf(`</api/mensajes?before=%d&limit=%d>; rel="next"`, next, limit))
	}
	return sendUncached(c, chat.Normalise(entries))
}
