package web

import (
	"errors"
	"runtime/debug"
	"strconv"

	"github.com/gofiber/fiber/v2"

	"balanza/services/store"
)

// Codes of the JSON errors. The first two are the seeds'.
const (
	codeUnauthorised   = -1
	codeNotImplemented = -2 // no such route
	codeInvalid        = -3 // the request itself is wrong; "campo" names the field where it is one
	codeNotFound       = -4
	codeTaken          = -5
	codeTooMany        = -6
	codeUnavailable    = -7
	codeInternal       = -8
)

// failure is an error that the client is told. Any other error is logged and told as an internal one.
type failure struct {
	status int
	code   int
	text   string // key of the texts
	args   []any
	field  string
	wait   int // seconds, for Retry-After; 0 = none
}

func (f *failure) Error() string { return f.text }

// answer is the JSON form of a failure.
type answer struct {
	Error       int    `json:"error"`
	Descripcion string `json:"descripcion"`
	Campo       string `json:"campo,omitempty"`
}

func invalid(field, text string, args ...any) *failure {
	return &failure{status: fiber.StatusBadRequest, code: codeInvalid, text: text, args: args, field: field}
}

// notNow is a failure that may be over at the next try.
func notNow(text string) *failure {
	return &failure{status: fiber.StatusServiceUnavailable, code: codeUnavailable, text: text, wait: 1}
}

func notImplemented(c *fiber.Ctx) error {
	path := string(c.Request().URI().PathOriginal())
	return &failure{
		status: fiber.StatusNotFound,
		code:   codeNotImplemented,
		text:   "error.route",
		args:   []any{path, string(c.Request().Header.Method())},
	}
}

var (
	unavailable = notNow("error.unavailable")
	stopping    = notNow("error.draining")
	internal    = &failure{status: fiber.StatusInternalServerError, code: codeInternal, text: "error.internal"}
)

// asFailure turns any error into one that can be told. Internal ones are logged.
func (s *Site) asFailure(c *fiber.Ctx, err error) *failure {
	if f, ok := errors.AsType[*failure](err); ok {
		return f
	}
	if e, ok := errors.AsType[*fiber.Error](err); ok { // fasthttp's and Fiber's own: a request that cannot be read
		f := &failure{status: e.Code, code: codeInvalid, text: "error.request"}
		switch e.Code {
		case fiber.StatusRequestEntityTooLarge:
			f.text, f.args = "error.toolarge", []any{maxBody}
		case fiber.StatusRequestHeaderFieldsTooLarge:
			f.text, f.args = "error.toolarge", []any{maxHeader}
		case fiber.StatusRequestTimeout:
			f.text = "error.timeout"
		}
		return f
	}
	if errors.Is(err, store.ErrUnavailable) {
		s.outages.Do(func() { s.log.Warn("store unavailable", "path", c.Path(), "error", err) })
		return unavailable
	}
	s.log.Error("internal error", "method", c.Method(), "path", c.Path(), "error", err)
	return internal
}

// refuse answers with an error, as JSON or as a page.
func (s *Site) refuse(c *fiber.Ctx, err error) error {
	s.sign(c.Context()) // what fasthttp cannot read does not come through the door
	f := s.asFailure(c, err)
	c.Status(f.status)
	c.Set(fiber.HeaderCacheControl, "no-store")
	c.Vary(fiber.HeaderAccept, fiber.HeaderAcceptLanguage)
	if f.wait > 0 {
		c.Set(fiber.HeaderRetryAfter, strconv.Itoa(f.wait))
	}
	switch {
	case wantsJSON(c, true):
		texts := s.texts[lang(c)]
		if f.code == codeNotImplemented {
			texts = s.texts["es"] // the seeds' form, which programs may know
		}
		return c.JSON(answer{Error: f.code, Descripcion: texts.say(f.text, f.args...), Campo: f.field})
	case f.status == fiber.StatusUnauthorized:
		return c.Redirect("/login", fiber.StatusSeeOther)
	}
	page := "error"
	if f.status == fiber.StatusNotFound {
		page = "notfound"
	}
	return s.show(c, page, Page{Error: s.texts[lang(c)].say(f.text, f.args...), Field: f.field})
}

func stack() string { return string(debug.Stack()) }
