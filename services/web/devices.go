package web

import (
	"context"
	"errors"
	"slices"
	"time"

	"github.com/gofiber/fiber/v2"

	"balanza/services/store"
)

const (
	maxDevices   = 10 // of a user
	deviceLength = 365 * 24 * time.Hour
)

// deviceCookieName returns the name of the cookie by which a browser is known that has logged in before. Config.Cookie has
// no dot, so that it is no other site's session cookie.
func (s *Site) deviceCookieName(c *fiber.Ctx) string { return s.cookieName(c) + ".device" }

// deviceID returns the hash of the device cookie, empty when there is none.
func (s *Site) deviceID(c *fiber.Ctx) string {
	token := string(c.Request().Header.Cookie(s.deviceCookieName(c)))
	if !store.IsToken(token) {
		return ""
	}
	return store.HashToken(token)
}

// hasDevice reports whether a user has logged in from the browser with that device cookie.
func hasDevice(user store.User, id string) bool { return slices.Contains(user.Devices, id) }

// rememberDevice makes the browser known for a user who has logged in. The device cookie serves all users of a browser, so
// that they do not displace one another.
func (s *Site) rememberDevice(ctx context.Context, c *fiber.Ctx, user store.User) error {
	id := s.newDevice(c)
	if hasDevice(user, id) {
		return nil
	}
	devices := append(slices.Clone(user.Devices), id)
	err := s.config.Store.SetDevices(ctx, user.Email, devices[max(0, len(devices)-maxDevices):])
	if errors.Is(err, store.ErrNotFound) { // the account has just been deleted
		return nil
	}
	return err
}

// newDevice returns the hash of the device cookie, and sets a new cookie when there is none.
func (s *Site) newDevice(c *fiber.Ctx) string {
	if id := s.deviceID(c); id != "" {
		return id
	}
	token := store.NewToken()
	c.Cookie(&fiber.Cookie{
		Name:     s.deviceCookieName(c),
		Value:    token,
		Path:     "/",
		Secure:   secure(c),
		HTTPOnly: true,
		SameSite: fiber.CookieSameSiteLaxMode,
		MaxAge:   int(deviceLength.Seconds()),
	})
	return store.HashToken(token)
}
