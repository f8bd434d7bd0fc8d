package web

import (
	"net/url"
	"strings"

	"github.com/gofiber/fiber/v2"
)

var errCrossSite = &httpError{status: fiber.StatusForbidden, code: codeUnauthorised, text: "error.crosssite"}

// checkFetchSite rejects requests of other sites' pages, in the way of net/http's CrossOriginProtection: browsers send
// the request's origin, and a client that sends none is no browser and has no victim's cookie.
func checkFetchSite(c *fiber.Ctx) error {
	switch c.Get("Sec-Fetch-Site") {
	case "same-origin", "none":
		return nil
	case "":
		if origin := c.Get(fiber.HeaderOrigin); origin == "" || sameOrigin(c, origin) {
			return nil
		}
	}
	return errCrossSite
}

// sameOrigin reports whether an Origin header names this site as the client addressed it. A site that is reached by TLS
// rejects its own http origin, since that page can be forged on the way.
func sameOrigin(c *fiber.Ctx, origin string) bool {
	u, err := url.Parse(origin)
	if err != nil || u.Host == "" || u.Path != "" || u.RawQuery != "" || u.User != nil {
		return false
	}
	sameScheme := u.Scheme == "https" || u.Scheme == "http" && !secure(c)
	return sameScheme && strings.EqualFold(u.Host, string(c.Request().Host()))
}

// secure reports whether the client's connection uses TLS, which a trusted proxy may terminate.
func secure(c *fiber.Ctx) bool {
	return c.Context().IsTLS() || c.Get(fiber.HeaderXForwardedProto) == "https"
}

// checkOrigin wraps the handler of a route that changes something: it rejects requests of other sites, and compressed
// bodies, since a small body may decompress to a huge one.
func checkOrigin(h fiber.Handler) fiber.Handler {
	return func(c *fiber.Ctx) error {
		if encoding := c.Get(fiber.HeaderContentEncoding); encoding != "" && encoding != "identity" {
			return &httpError{status: fiber.StatusUnsupportedMediaType, code: codeInvalid, text: "error.encoding"}
		}
		if err := checkFetchSite(c); err != nil {
			return err
		}
		return h(c)
	}
}
