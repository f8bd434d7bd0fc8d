package web

import (
	"encoding/json"
	"math"
	"net/url"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/gofiber/fiber/v2"
)

// form holds the fields of an HTML form or of a JSON object: strings from the former, any JSON value from the latter. Its
// methods return checked values, zero for a wrong one; err is the error of the first wrong field.
type form struct {
	values map[string]any
	err    error
}

// readForm reads the body. Methods of form check the values; unknown fields are ignored.
func readForm(c *fiber.Ctx) (*form, error) {
	contentType, _, _ := strings.Cut(c.Get(fiber.HeaderContentType), ";")
	switch strings.ToLower(strings.TrimSpace(contentType)) {
	case fiber.MIMEApplicationJSON:
		return readJSONBody(c.Request().Body())
	case fiber.MIMEApplicationForm:
		return readFormBody(c)
	}
	return nil, &httpError{status: fiber.StatusUnsupportedMediaType, code: codeInvalid, text: "error.type"}
}

// readJSONBody reads a single JSON object. Numbers stay text, so that number sees all their digits.
func readJSONBody(body []byte) (*form, error) {
	var values map[string]any
	if err := decodeJSON(body, &values); err != nil {
		return nil, err
	}
	if values == nil { // null
		return nil, invalid("", "error.json")
	}
	return &form{values: values}, nil
}

// readFormBody reads a form, in which no field may be repeated or nested: which of several values counts would depend on
// the reader.
func readFormBody(c *fiber.Ctx) (*form, error) {
	values := make(map[string]any)
	for k, v := range c.Request().PostArgs().All() {
		key := string(k)
		if strings.ContainsRune(key, '[') {
			return nil, invalid(key, "error.nested")
		}
		if _, twice := values[key]; twice {
			return nil, invalid(key, "error.repeated")
		}
		values[key] = string(v)
	}
	return &form{values: values}, nil
}

// fail records that a field is wrong, unless an earlier one was.
func (f *form) fail(field, text string, args ...any) {
	if f.err == nil {
		f.err = invalid(field, text, args...)
	}
}

// text returns a field of shortest to longest characters, trimmed of blanks. Control characters are an error.
func (f *form) text(name string, shortest, longest int) string {
	value, ok := f.values[name]
	if !ok {
		value = ""
	}
	text, ok := value.(string)
	if !ok || !utf8.ValidString(text) || strings.ContainsFunc(text, unicode.IsControl) {
		f.fail(name, "error.text", name)
		return ""
	}
	text = strings.TrimSpace(text)
	if n := utf8.RuneCountInString(text); n < shortest || n > longest {
		f.fail(name, "error.length", name, shortest, longest)
		return ""
	}
	return text
}

// number returns a field that is a finite number from least to most.
func (f *form) number(name string, least, most float64) float64 {
	var text string
	switch value := f.values[name].(type) {
	case string:
		text = strings.TrimSpace(value)
	case json.Number:
		text = value.String()
	}
	number, err := strconv.ParseFloat(text, 64)
	if err != nil || math.IsNaN(number) || number < least || number > most {
		f.fail(name, "error.number", name, least, most)
		return 0
	}
	return number
}

// maxURL is the longest address of a picture, in bytes: every message carries its author's, and must fit into a frame of
// the chat.
const maxURL = 2048

// picture returns a field that is an http or https address.
func (f *form) picture(name string) string {
	text := f.text(name, 0, maxURL)
	u, err := url.Parse(text)
	if err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" {
		f.fail(name, "error.url", name)
	}
	if len(text) > maxURL {
		f.fail(name, "error.length", name, 0, maxURL)
	}
	return text
}
