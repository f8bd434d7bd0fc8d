package main

import (
	"fmt"
	"io"
	"os"
	"strings"
	"unicode"
	"unicode/utf8"

	"golang.org/x/term"
)

// terminal is a terminal to which commands print. Log lines, names and causes of death may hold what other people have
// written, and a terminal interprets some of it: it moves the cursor, changes its title, answers as if somebody typed. Such
// characters are shown, and not sent. Pipes and files get every byte as it is.
type terminal struct{ *os.File }

// toTerminal returns a terminal where w is one, else w itself.
func toTerminal(w io.Writer) io.Writer {
	if f, ok := w.(*os.File); ok && term.IsTerminal(int(f.Fd())) {
		return terminal{f}
	}
	return w
}

// Write writes lines of text.
func (t terminal) Write(p []byte) (int, error) {
	if _, err := t.WriteString(string(p)); err != nil {
		return 0, err
	}
	return len(p), nil
}

// WriteString is io.StringWriter's, so that nothing reaches the file's own.
func (t terminal) WriteString(s string) (int, error) {
	if _, err := t.File.WriteString(visible(s)); err != nil {
		return 0, err
	}
	return len(s), nil
}

// visible returns a text in which control characters other than tabs and line ends, characters that change the direction
// of writing, and bytes that are no UTF-8 are written as in Go: \x1b, \u202e.
func visible(text string) string {
	if strings.IndexFunc(text, isInterpreted) < 0 && utf8.ValidString(text) {
		return text
	}
	var b strings.Builder
	for i, r := range text {
		_, size := utf8.DecodeRuneInString(text[i:])
		switch {
		case r == utf8.RuneError && size == 1:
			fmt.Fprintf(&b, `\x%02x`, text[i])
		case isInterpreted(r) && r < utf8.RuneSelf:
			fmt.Fprintf(&b, `\x%02x`, r)
		case isInterpreted(r):
			fmt.Fprintf(&b, `\u%04x`, r)
		default:
			b.WriteRune(r)
		}
	}
	return b.String()
}

// isInterpreted tells whether a terminal may do something else with a character than show it.
func isInterpreted(r rune) bool {
	switch r {
	case '\t', '\n':
		return false
	case '\u2028', '\u2029': // they end a line
		return true
	}
	return unicode.IsControl(r) || unicode.Is(unicode.Bidi_Control, r)
}
