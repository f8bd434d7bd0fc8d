package web

import (
	"bytes"
	"encoding/json"
	"io"
	"strconv"
	"strings"
	"unicode/utf16"
	"unicode/utf8"
)

// decodeJSON reads a single JSON value into what into points to, in which numbers of type any become json.Number. It
// rejects what encoding/json would repair or decide by itself, since another reader would decide otherwise: invalid UTF-8
// and half a surrogate pair, which become U+FFFD, and repeated keys, of which the last one counts. Keys that differ in
// case only are repeated, because encoding/json takes either for the same field. It also rejects the character U+0000.
// The error is an *httpError with status 400, which names the field if it can.
func decodeJSON(data []byte, into any) error {
	if err := checkJSON(data); err != nil {
		return err
	}
	d := json.NewDecoder(bytes.NewReader(data))
	d.UseNumber()
	if err := d.Decode(into); err != nil {
		return invalid("", "error.json")
	}
	return nil
}

// checkJSON fails when data is not exactly one JSON value, when a string in it is no valid text, and when an object in it
// has a key twice.
func checkJSON(data []byte) error {
	type level struct {
		keys  map[string]bool // nil in an array
		isKey bool            // the next string is a key
	}
	levels := []level{{}} // the outermost one is for the value itself
	field := ""           // the key of the outermost object that the token belongs to
	d := json.NewDecoder(bytes.NewReader(data))
	d.UseNumber()
	for {
		start := d.InputOffset()
		token, err := d.Token()
		if err != nil {
			return invalid("", "error.json")
		}
		text, isText := token.(string)
		if isText && !validText(data[start:d.InputOffset()]) {
			return invalid(field, "error.unicode")
		}
		top := &levels[len(levels)-1]
		if isText && top.isKey {
			if len(levels) == 2 {
				field = text
			}
			folded := strings.ToLower(strings.ToUpper(text))
			if top.keys[folded] {
				return invalid(text, "error.repeated")
			}
			top.keys[folded], top.isKey = true, false
			continue
		}
		top.isKey = top.keys != nil // after a value comes a key
		switch token {
		case json.Delim('{'):
			levels = append(levels, level{keys: map[string]bool{}, isKey: true})
		case json.Delim('['):
			levels = append(levels, level{})
		case json.Delim('}'), json.Delim(']'):
			levels = levels[:len(levels)-1]
		}
		if len(levels) == 1 {
			break
		}
	}
	if _, err := d.Token(); err != io.EOF {
		return invalid("", "error.json")
	}
	return nil
}

// validText reports whether a JSON string is UTF-8 and its \u escapes are characters other than U+0000.
func validText(raw []byte) bool {
	if !utf8.Valid(raw) {
		return false
	}
	for {
		i := bytes.IndexByte(raw, '\\')
		if i < 0 {
			return true
		}
		if raw = raw[i:]; raw[1] != 'u' {
			raw = raw[2:]
			continue
		}
		first := escaped(raw)
		raw = raw[6:]
		if utf16.IsSurrogate(first) {
			if utf16.DecodeRune(first, escaped(raw)) == utf8.RuneError {
				return false
			}
			raw = raw[6:]
		}
		if first == 0 {
			return false
		}
	}
}

// escaped returns the code unit of a \u escape at the start of data, utf8.RuneError when there is none.
func escaped(data []byte) rune {
	if len(data) < 6 || data[0] != '\\' || data[1] != 'u' {
		return utf8.RuneError
	}
	unit, err := strconv.ParseUint(string(data[2:6]), 16, 16)
	if err != nil {
		return utf8.RuneError
	}
	return rune(unit)
}
