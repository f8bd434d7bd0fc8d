package web

import (
	"bytes"
	"encoding/json"
	"io"
	"math"
	"net/url"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/gofiber/fiber/v2"
)

// form holds the fields of an HTML form or of a JSON object: strings from the former, any JSON value from the latter.
type form map[string]any

// readForm reads the body. Methods of form check the values; unknown fields are ignored.
func readForm(c *fiber.Ctx) (form, error) {
	kind, _, _ := strings.Cut(c.Get(fiber.HeaderContentType), ";")
	switch strings.ToLower(strings.TrimSpace(kind)) {
	case fiber.MIMEApplicationJSON:
		return readJSONBody(c.Request().Body())
	case fiber.MIMEApplicationForm:
		return readFormBody(c)
	}
	return nil, &httpError{status: fiber.StatusUnsupportedMediaType, code: codeInvalid, text: "error.type"}
}

// readJSONBody reads a single JSON object.
func readJSONBody(body []byte) (form, error) {
	var f form
	d := json.NewDecoder(bytes.NewReader(body))
	d.UseNumber()
	if err := d.Decode(&f); err != nil || f == nil {
		return nil, invalid("", "error.json")
	}
	if _, err := d.Token(); err != io.EOF {
		return nil, invalid("", "error.json")
	}
	return f, nil
}

// readFormBody reads a form, in which no field may be repeated or nested.
func readFormBody(c *fiber.Ctx) (form, error) {
	f := make(form)
	for k, v := range c.Request().PostArgs().All() {
		key := string(k)
		if strings.ContainsRune(key, '[') {
			return nil, invalid(key, "error.nested")
		}
		if _, twice := f[key]; twice {
			return nil, invalid(key, "error.repeated")
		}
		f[key] = string(v)
	}
	return f, nil
}

// text returns a field of shortest to longest characters, trimmed of blanks. Control characters are an error.
func (f form) text(name string, shortest, longest int) (string, error) {
	value, ok := f[name]
	if !ok {
		value = ""
	}
	text, ok := value.(string)
	if !ok || !utf8.ValidString(text) || strings.ContainsFunc(text, unicode.IsControl) {
		return "", invalid(name, "error.text", name)
	}
	text = strings.TrimSpace(text)
	if n := utf8.RuneCountInString(text); n < shortest || n > longest {
		return "", invalid(name, "error.length", name, shortest, longest)
	}
	return text, nil
}

// number returns a field that is a finite number from least to most.
func (f form) number(name string, least, most float64) (float64, error) {
	var text string
	switch value := f[name].(type) {
	case string:
		text = strings.TrimSpace(value)
	case json.Number:
		text = value.String()
	}
	number, err := strconv.ParseFloat(text, 64)
	if err != nil || math.IsNaN(number) || number < least || number > most {
		return 0, invalid(name, "error.number", name, least, most)
	}
	return number, nil
}

// maxURL is the longest address of a picture, in characters.
const maxURL = 2048

// picture returns a field that is an http or https address.
func (f form) picture(name string) (string, error) {
	text, err := f.text(name, 0, maxURL)
	if err != nil {
		return "", err
	}
	u, err := url.Parse(text)
	if err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" {
		return "", invalid(name, "error.url", name)
	}
	return text, nil
}
