package web

import (
	"errors"
	"strconv"

	"github.com/gofiber/fiber/v2"
	"github.com/valyala/fasthttp"

	"balanza/services/store"
)

// Codes of the JSON errors, which clients may rely on: one that is in use keeps its meaning. The first two are the
// course's. A code has no status of its own, since codeInvalid and codeUnauthorised stand for several.
const (
	codeUnauthorised   = -1 // 401: no session; 403: a request of another site
	codeNotImplemented = -2 // no such route
	codeInvalid        = -3 // the request is wrong; "campo" names the field, if it is one
	codeNotFound       = -4
	codeTaken          = -5 // the email has an account
	codeTooMany        = -6 // a rate limit is exceeded; the page tries again
	codeUnavailable    = -7 // the store does not answer, or the server drains; the page tries again
	codeInternal       = -8 // the cause is in the log only
	codeMisconfigured  = -9 // the store refuses the server; only its operator can change that
)

// httpError is an error for the client. Any other error is logged, and the client gets errInternal.
type httpError struct {
	status int
	code   int
	text   string // key of its text
	args   []any  // of the text
	field  string // name of the wrong field, empty when the error is about no field
	// retryAfter is the header's value in seconds; without one it is 0.
	retryAfter int
}

// Error returns the key of the text, since the language is known only when the error is written.
func (e *httpError) Error() string { return e.text }

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
	return &httpError{status: fiber.StatusServiceUnavailable, code: codeUnavailable, text: text, retryAfter: 1}
}

// notImplemented is the 404 of a route that does not exist.
func notImplemented(c *fiber.Ctx) error { return noRoute(c.Context()) }

// noRoute is the 404 of a route that does not exist, in the course's form.
func noRoute(c *fasthttp.RequestCtx) *httpError {
	path := string(c.URI().PathOriginal())
	return &httpError{
		status: fiber.StatusNotFound,
		code:   codeNotImplemented,
		text:   "error.route",
		args:   []any{path, string(c.Method())},
	}
}

// errLongURL and errLongHeader are for requests that exceed the limits.
func (s *Site) errLongURL() *httpError {
	return &httpError{
		status: fiber.StatusRequestURITooLong, code: codeInvalid, text: "error.longurl", args: []any{s.config.Limits.URL},
	}
}

func (s *Site) errLongHeader() *httpError {
	return &httpError{
		status: fiber.StatusRequestHeaderFieldsTooLarge, code: codeInvalid, text: "error.longheader",
		args: []any{s.config.Limits.Header},
	}
}

var (
	errUnavailable   = temporaryError("error.unavailable")
	errStopping      = temporaryError("error.draining")
	errMisdirected   = &httpError{status: fiber.StatusMisdirectedRequest, code: codeInvalid, text: "error.host"}
	errMisconfigured = &httpError{
		status: fiber.StatusInternalServerError, code: codeMisconfigured, text: "error.misconfigured",
	}
	errInternal = &httpError{status: fiber.StatusInternalServerError, code: codeInternal, text: "error.internal"}
)

// toHTTPError turns any error into one for the client. Only errors that no client has caused are logged: others would
// let clients fill the log. While the store is down every request fails, so that is logged once a second.
func (s *Site) toHTTPError(c *fiber.Ctx, err error) *httpError {
	if known, ok := errors.AsType[*httpError](err); ok {
		return known
	}
	if e, ok := errors.AsType[*fiber.Error](err); ok { // fasthttp's and Fiber's own errors: the request cannot be read
		unreadable := &httpError{status: e.Code, code: codeInvalid, text: "error.request"}
		switch e.Code {
		case fiber.StatusRequestEntityTooLarge:
			unreadable.text, unreadable.args = "error.toolarge", []any{s.config.Limits.Body}
		case fiber.StatusRequestHeaderFieldsTooLarge:
			return s.errLongHeader()
		case fiber.StatusRequestTimeout:
			unreadable.text = "error.timeout"
		}
		return unreadable
	}
	if s.config.Access.Refused(err) {
		return errMisconfigured
	}
	if errors.Is(err, store.ErrUnavailable) {
		s.outages.Do(func() { s.log.Warn("store unavailable", "path", c.Path(), "request", requestID(c), "error", err) })
		return errUnavailable
	}
	s.log.Error("internal error", "method", c.Method(), "path", c.Path(), "request", requestID(c), "error", err)
	return errInternal
}

// writeError answers with an error, as JSON or as a page; a page that needs a session redirects to the log-in. No cache
// may keep the answer, since the next one may be a success.
func (s *Site) writeError(c *fiber.Ctx, err error) error {
	s.setCommonHeaders(c.Context()) // requests that fasthttp cannot read bypass recoverPanics
	e := s.toHTTPError(c, err)
	c.Status(e.status)
	c.Set(fiber.HeaderCacheControl, "no-store")
	c.Vary(fiber.HeaderAccept, fiber.HeaderAcceptLanguage)
	if e.retryAfter > 0 {
		c.Set(fiber.HeaderRetryAfter, strconv.Itoa(e.retryAfter))
	}
	switch {
	case wantsJSON(c, true):
		texts := s.texts[lang(c)]
		if e.code == codeNotImplemented {
			texts = s.texts["es"] // the course's form, which programs may expect
		}
		return c.JSON(errorBody{Error: e.code, Descripcion: texts.format(e.text, e.args...), Campo: e.field})
	case e.status == fiber.StatusUnauthorized:
		return c.Redirect("/login", fiber.StatusSeeOther)
	}
	page := "error"
	if e.status == fiber.StatusNotFound {
		page = "notfound"
	}
	return s.show(c, page, Page{Error: s.texts[lang(c)].format(e.text, e.args...), Field: e.field})
}
