package web

import (
	"encoding/json"
	"iter"
	"math"
	"net/url"
	"regexp"
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
	host   string // that the client has sent it to
	err    error
}

// readForm reads the body. Methods of form check the values; unknown fields are ignored.
func readForm(c *fiber.Ctx) (*form, error) {
	contentType, _, _ := strings.Cut(c.Get(fiber.HeaderContentType), ";")
	f, err := (*form)(nil), error(&httpError{status: fiber.StatusUnsupportedMediaType, code: codeInvalid, text: "error.type"})
	switch strings.ToLower(strings.TrimSpace(contentType)) {
	case fiber.MIMEApplicationJSON:
		f, err = readJSONBody(c.Request().Body())
	case fiber.MIMEApplicationForm:
		f, err = readFormBody(c)
	}
	if err != nil {
		return nil, err
	}
	f.host = string(c.Request().Host())
	return f, nil
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
// the reader. A value that is no text is left out and fails the form, so that it can be shown again with the others.
func readFormBody(c *fiber.Ctx) (*form, error) {
	f := &form{values: make(map[string]any)}
	for name, value := range pairs(c.Request().Body()) {
		if strings.ContainsRune(name, '[') {
			return nil, invalid(name, "error.nested")
		}
		if _, twice := f.values[name]; twice {
			return nil, invalid(name, "error.repeated")
		}
		f.values[name] = value.text
		if !value.valid {
			delete(f.values, name)
			f.fail(name, "error.unicode")
		}
	}
	return f, nil
}

// encodedValue is a value of a form or a query. It is not valid when it, or its name, has an incomplete escape, invalid
// UTF-8 or the character U+0000, which fasthttp would hand over as they are.
type encodedValue struct {
	text  string
	valid bool
}

// pairs decodes the names and values of application/x-www-form-urlencoded. A name that is not valid becomes empty.
func pairs(encoded []byte) iter.Seq2[string, encodedValue] {
	decode := func(part string) (string, bool) {
		text, err := url.QueryUnescape(part)
		if err != nil || !utf8.ValidString(text) || strings.ContainsRune(text, 0) {
			return "", false
		}
		return text, true
	}
	return func(yield func(string, encodedValue) bool) {
		for pair := range strings.SplitSeq(string(encoded), "&") {
			if pair == "" {
				continue
			}
			name, value, _ := strings.Cut(pair, "=")
			name, validName := decode(name)
			value, validValue := decode(value)
			if !yield(name, encodedValue{value, validName && validValue}) {
				return
			}
		}
	}
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

// decimal matches a number as HTML forms send it (HTML, 2.3.4.3), which includes every number of JSON. strconv would also
// read hexadecimal numbers, digits with underscores, and words such as Inf.
var decimal = regexp.MustCompile(`^-?([0-9]+(\.[0-9]+)?|\.[0-9]+)([eE][+-]?[0-9]+)?$`)

// number returns a field that is a number from least to most. Minus zero is below zero.
func (f *form) number(name string, least, most float64) float64 {
	var text string
	switch value := f.values[name].(type) {
	case string:
		text = value
	case json.Number:
		text = value.String()
	}
	number, err := strconv.ParseFloat(text, 64)
	if err != nil || !decimal.MatchString(text) || number < least || number > most || least == 0 && math.Signbit(number) {
		f.fail(name, "error.number", name, least, most)
		return 0
	}
	return number
}

// wholeNumber reads a number of decimal digits without a sign, as query parameters have it.
func wholeNumber(text string) (n int64, ok bool) {
	n, err := strconv.ParseInt(text, 10, 64)
	return n, err == nil && strings.Trim(text, "0123456789") == ""
}

// queryNumber reads a whole number from least to most from the query, fallback when it is missing.
func queryNumber(c *fiber.Ctx, name string, least, most, fallback int64) (int64, error) {
	if !c.Context().QueryArgs().Has(name) {
		return fallback, nil
	}
	if len(c.Context().QueryArgs().PeekMulti(name)) > 1 {
		return 0, invalid(name, "error.repeated")
	}
	n, ok := wholeNumber(c.Query(name))
	if !ok || n < least || n > most {
		return 0, invalid(name, "error.range", name, least, most)
	}
	return n, nil
}
