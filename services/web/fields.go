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

// fields are what a form or a JSON object brings: strings from the one, any JSON value from the other.
type fields map[string]any

// readFields reads the body. Values are checked when they are asked for; fields that nobody asks for do not matter.
func readFields(c *fiber.Ctx) (fields, error) {
	kind, _, _ := strings.Cut(c.Get(fiber.HeaderContentType), ";")
	switch strings.ToLower(strings.TrimSpace(kind)) {
	case fiber.MIMEApplicationJSON:
		return readJSON(c.Request().Body())
	case fiber.MIMEApplicationForm:
		return readForm(c)
	}
	return nil, &failure{status: fiber.StatusUnsupportedMediaType, code: codeInvalid, text: "error.type"}
}

func readJSON(body []byte) (fields, error) {
	var f fields
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

func readForm(c *fiber.Ctx) (fields, error) {
	f := make(fields)
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

// text gives a field of shortest to longest characters, without blanks around it and without control characters.
func (f fields) text(name string, shortest, longest int) (string, error) {
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

// number gives a field that is a finite number from least to most.
func (f fields) number(name string, least, most float64) (float64, error) {
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

// longestURL is how many characters an address of a picture may have.
const longestURL = 2048

// picture gives a field that is an http or https address.
func (f fields) picture(name string) (string, error) {
	text, err := f.text(name, 0, longestURL)
	if err != nil {
		return "", err
	}
	u, err := url.Parse(text)
	if err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" {
		return "", invalid(name, "error.url", name)
	}
	return text, nil
}
