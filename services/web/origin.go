package web

import (
	"net/url"
	"strings"

	"github.com/gofiber/fiber/v2"
)

var crossSite = &failure{status: fiber.StatusForbidden, code: codeUnauthorised, text: "error.crosssite"}

// checkSite refuses requests that another site's page makes, in the way of net/http's CrossOriginProtection: browsers
// say where a request comes from, and who says nothing is no browser and carries no victim's cookie.
func checkSite(c *fiber.Ctx) error {
	switch c.Get("Sec-Fetch-Site") {
	case "same-origin", "none":
		return nil
	case "":
		if origin := c.Get(fiber.HeaderOrigin); origin == "" || sameOrigin(c, origin) {
			return nil
		}
	}
	return crossSite
}

// sameOrigin tells whether an Origin header names this site as the client addressed it.
func sameOrigin(c *fiber.Ctx, origin string) bool {
	u, err := url.Parse(origin)
	if err != nil || u.Host == "" || u.Path != "" || u.RawQuery != "" || u.User != nil {
		return false
	}
	if u.Scheme != "https" && (u.Scheme != "http" || secure(c)) {
		return false
	}
	return strings.EqualFold(u.Host, string(c.Request().Host()))
}

// secure tells whether the client's own connection is TLS, which a trusted proxy may have ended.
func secure(c *fiber.Ctx) bool {
	return c.Context().IsTLS() || c.IsProxyTrusted() && c.Get(fiber.HeaderXForwardedProto) == "https"
}

// guard refuses what no request that changes something may be: made by another site, or compressed, for a small body
// may unpack to a huge one.
func guard(h fiber.Handler) fiber.Handler {
	return func(c *fiber.Ctx) error {
		if encoding := c.Get(fiber.HeaderContentEncoding); encoding != "" && encoding != "identity" {
			return &failure{status: fiber.StatusUnsupportedMediaType, code: codeInvalid, text: "error.encoding"}
		}
		if err := checkSite(c); err != nil {
			return err
		}
		return h(c)
	}
}
