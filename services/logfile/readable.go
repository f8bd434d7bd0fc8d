package logfile

import (
	"bytes"
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"
)

// field is one of a line's attributes. Its value is JSON.
type field struct {
	key   string
	value json.RawMessage
}

// Readable returns a line that slog wrote as JSON in a form for people: local time (with the date unless it is that of
// now), level, message, and key=value for each attribute. It holds no control characters. Any other line is returned as it
// is. Lines have no line end.
func Readable(line []byte, now time.Time) []byte {
	at, ok := lineTime(line)
	if !ok {
		return line
	}
	fields, ok := parseFields(line)
	if !ok || removeString(&fields, "time") == "" {
		return line
	}
	level, message := removeString(&fields, "level"), removeString(&fields, "msg")
	if message == "" {
		return line
	}
	at = at.In(now.Location())
	layout := time.TimeOnly
	if at.Format(time.DateOnly) != now.Format(time.DateOnly) {
		layout = time.DateTime
	}
	if message == "request" && has(fields, "method") && has(fields, "path") && has(fields, "status") {
		message = removeRequest(&fields)
	} else {
		message = printable(message)
	}
	out := fmt.Appendf(nil, "%s %-5s %s", at.Format(layout), bare(level), message)
	for _, f := range fields {
		out = fmt.Appendf(out, " %s=%s", bare(f.key), f.text())
	}
	return out
}

// parseFields returns the members of a JSON object in their order.
func parseFields(line []byte) (fields []field, ok bool) {
	d := json.NewDecoder(bytes.NewReader(line))
	if begin, err := d.Token(); err != nil || begin != json.Delim('{') {
		return nil, false
	}
	for d.More() {
		key, err := d.Token()
		if err != nil {
			return nil, false
		}
		var f field
		f.key, _ = key.(string) // a member's name is a string, or Token failed
		if err := d.Decode(&f.value); err != nil {
			return nil, false
		}
		fields = append(fields, f)
	}
	if _, err := d.Token(); err != nil {
		return nil, false
	}
	return fields, len(bytes.TrimSpace(line[d.InputOffset():])) == 0
}

func has(fields []field, key string) bool {
	return slices.ContainsFunc(fields, func(f field) bool { return f.key == key })
}

// remove takes the first attribute of that key out of fields, and returns its value; nil where there is none.
func remove(fields *[]field, key string) json.RawMessage {
	i := slices.IndexFunc(*fields, func(f field) bool { return f.key == key })
	if i < 0 {
		return nil
	}
	value := (*fields)[i].value
	*fields = slices.Delete(*fields, i, i+1)
	return value
}

// removeString is remove for a text; empty where the attribute is none.
func removeString(fields *[]field, key string) (text string) {
	if json.Unmarshal(remove(fields, key), &text) != nil {
		return ""
	}
	return text
}

// removeRequest describes a request that the edge answered: what was asked, and who answered what and how fast. It takes
// that out of fields. The address of the upstream is left out where the answer names the server.
func removeRequest(fields *[]field) string {
	words := []string{bare(removeString(fields, "method")), bare(removeString(fields, "path")), field{value: remove(fields, "status")}.text()}
	var seconds *float64
	if json.Unmarshal(remove(fields, "seconds"), &seconds) == nil && seconds != nil {
		words = append(words, duration(*seconds))
	}
	var size *int64
	if json.Unmarshal(remove(fields, "bytes"), &size) == nil && size != nil {
		words = append(words, byteCount(*size))
	}
	*fields = slices.DeleteFunc(*fields, func(f field) bool { return string(f.value) == `""` })
	if has(*fields, "server") {
		remove(fields, "upstream")
	}
	for _, key := range []string{"server", "pid"} {
		if value := remove(fields, key); value != nil {
			words = append(words, key+"="+field{value: value}.text())
		}
	}
	return strings.Join(words, " ")
}

// text is a value as Readable shows it.
func (f field) text() string {
	var s string
	if json.Unmarshal(f.value, &s) == nil && string(f.value) != "null" {
		return bare(s)
	}
	return printable(string(f.value))
}

// bare returns a text as it is where it is one word, and quoted as in Go elsewhere.
func bare(text string) string {
	if text == "" || strings.ContainsAny(text, ` "`) {
		return strconv.Quote(text)
	}
	return printable(text)
}

// printable returns a text as it is, or quoted as in Go where it has characters that a terminal may interpret.
func printable(text string) string {
	if !utf8.ValidString(text) || strings.ContainsFunc(text, func(r rune) bool { return !unicode.IsPrint(r) }) {
		return strconv.Quote(text)
	}
	return text
}

// duration is a time in seconds, in a unit that suits it.
func duration(seconds float64) string {
	switch {
	case seconds < 0.01:
		return fmt.Sprintf("%.1fms", seconds*1000)
	case seconds < 1:
		return fmt.Sprintf("%.0fms", seconds*1000)
	}
	return fmt.Sprintf("%.2fs", seconds)
}

// byteCount is a number of bytes, in a unit that suits it.
func byteCount(n int64) string {
	switch {
	case n < 1<<10:
		return fmt.Sprintf("%dB", n)
	case n < 1<<20:
		return fmt.Sprintf("%.1fKiB", float64(n)/(1<<10))
	}
	return fmt.Sprintf("%.1fMiB", float64(n)/(1<<20))
}
