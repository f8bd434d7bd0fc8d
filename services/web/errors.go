package web

import (
	"errors"
	"strconv"

	"github.com/gofiber/fiber/v2"

	"balanza/services/store"
)

// Codes of the JSON errors. The first two are the course's.
const (
	codeUnauthorised   = -1
	codeNotImplemented = -2 // no such route
	codeInvalid        = -3 // the request is wrong; "campo" names the field, if it is one
	codeNotFound       = -4
	codeTaken          = -5
	codeTooMany        = -6
	codeUnavailable    = -7
	codeInternal       = -8
)

// httpError is an error for the client. Any other error is logged, and the client gets errInternal.
type httpError struct {
	status int
	code   int
	text   string // key of its text
	args   []any
	field  string
	wait   int // seconds, for Retry-After; 0 = none
}

// Error returns the key of the text, since the language is known only when the error is written.
func (f *httpError) Error() string { return f.text }

// errorBody is the JSON form of an httpError.
type errorBody struct {
	Error       int    `json:"error"`
	Descripcion string `json:"descripcion"`
	Campo       string `json:"campo,omitempty"`
}

// invalid is a 400 that names the field. text is a key of the texts.
func invalid(field, text string, args ...any) *httpError {
	return &httpError{status: fiber.StatusBadRequest, code: codeInvalid, text: text, args: args, field: field}
}

// temporaryError is a 503 that may be over when the client tries again, after a second.
func temporaryError(text string) *httpError {
	return &httpError{status: fiber.StatusServiceUnavailable, code: codeUnavailable, text: text, wait: 1}
}

// notImplemented is the 404 of a route that does not exist, in the course's form.
func notImplemented(c *fiber.Ctx) error {
	path := string(c.Request().URI().PathOriginal())
	return &httpError{
		status: fiber.StatusNotFound,
		code:   codeNotImplemented,
		text:   "error.route",
		args:   []any{path, string(c.Request().Header.Method())},
	}
}

var (
	errUnavailable = temporaryError("error.unavailable")
	errStopping    = temporaryError("error.draining")
	errInternal    = &httpError{status: fiber.StatusInternalServerError, code: codeInternal, text: "error.internal"}
)

// toHTTPError turns any error into one for the client. Errors that are not the client's are logged.
func (s *Site) toHTTPError(c *fiber.Ctx, err error) *httpError {
	if f, ok := errors.AsType[*httpError](err); ok {
		return f
	}
	if e, ok := errors.AsType[*fiber.Error](err); ok { // fasthttp's and Fiber's own errors: the request cannot be read
		f := &httpError{status: e.Code, code: codeInvalid, text: "error.request"}
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
		return errUnavailable
	}
	s.log.Error("internal error", "method", c.Method(), "path", c.Path(), "error", err)
	return errInternal
}

// writeError answers with an error, as JSON or as a page.
func (s *Site) writeError(c *fiber.Ctx, err error) error {
	s.setCommonHeaders(c.Context()) // requests that fasthttp cannot read bypass recoverPanics
	f := s.toHTTPError(c, err)
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
			texts = s.texts["es"] // the course's form, which programs may expect
		}
		return c.JSON(errorBody{Error: f.code, Descripcion: texts.format(f.text, f.args...), Campo: f.field})
	case f.status == fiber.StatusUnauthorized:
		return c.Redirect("/login", fiber.StatusSeeOther)
	}
	page := "error"
	if f.status == fiber.StatusNotFound {
		page = "notfound"
	}
	return s.show(c, page, Page{Error: s.texts[lang(c)].format(f.text, f.args...), Field: f.field})
}
