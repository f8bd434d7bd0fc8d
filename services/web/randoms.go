package web

import (
	"github.com/gofiber/fiber/v2"

	"balanza/services/draw"
)

// randoms draws cant numbers, draw.Default without the parameter, and answers with the histogram as JSON: number → how
// often it was drawn. Package draw works in the background, so other requests are not delayed.
func (s *Site) randoms(c *fiber.Ctx) error {
	n := int64(draw.Default)
	switch values := c.Context().QueryArgs().PeekMulti("cant"); len(values) {
	case 0:
	case 1:
		var ok bool
		if n, ok = wholeNumber(string(values[0])); !ok || n < 1 || n > draw.Max {
			return invalid("cant", "error.cant", draw.Max)
		}
	default:
		return invalid("cant", "error.repeated")
	}
	counts, err := draw.Histogram(s.work, n)
	if err != nil { // the site stops
		return errStopping
	}
	c.Set(fiber.HeaderCacheControl, "no-store")
	return c.JSON(counts)
}
