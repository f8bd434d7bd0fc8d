package web

import (
	"strings"
	"unicode"
	"unicode/utf8"
)

const (
	zeroWidthJoiner = '\u200d'
	emojiSelector   = '\ufe0f'
	blankBraille    = '\u2800' // a symbol, by its category
)

// isVisible reports whether a character takes space and is shown: unlike direction marks, characters of no width, controls,
// other spaces than the usual one, and those that are unassigned or of private use. With the former a name or an email looks
// like another one.
func isVisible(r rune) bool {
	switch {
	case r == ' ':
		return true
	case !unicode.IsGraphic(r), r == blankBraille:
		return false
	}
	return !unicode.In(r, unicode.Zs, unicode.Other_Default_Ignorable_Code_Point, unicode.Variation_Selector)
}

// visible returns a text without invalid bytes and characters that are not visible.
func visible(text string) string {
	return strings.Map(func(r rune) rune {
		if !isVisible(r) || r == utf8.RuneError {
			return -1
		}
		return r
	}, text)
}

// allVisible reports whether a text has only visible characters. Those that join and colour the symbols of an emoji are
// allowed after a symbol.
func allVisible(text string) bool {
	inEmoji := false
	for _, r := range text {
		if inEmoji && (r == zeroWidthJoiner || r == emojiSelector) {
			continue
		}
		if !isVisible(r) {
			return false
		}
		inEmoji = unicode.In(r, unicode.So, unicode.Sk)
	}
	return true
}

// cut returns the start of a text, at most n bytes and whole characters.
func cut(text string, n int) string {
	if len(text) <= n {
		return text
	}
	for n > 0 && !utf8.RuneStart(text[n]) {
		n--
	}
	return text[:n]
}

// visibleText is text for names and emails: characters that are not visible are an error too.
func (f *form) visibleText(name string, shortest, longest int) string {
	text := f.text(name, shortest, longest)
	if !allVisible(text) {
		f.fail(name, "error.visible", name)
		return ""
	}
	return text
}
