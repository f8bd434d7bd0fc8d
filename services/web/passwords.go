package web

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	_ "embed"
	"encoding/base64"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"

	"golang.org/x/text/unicode/norm"
)

const (
	minPassword  = 8   // characters
	maxPassword  = 256 // characters
	minDistinct  = 5   // different characters of a password
	maxAffix     = 6   // digits and signs before and after a common password that do not make it better
	minUserWord  = 3   // letters; a shorter word of the email or the name is in too many passwords
	siteName     = "balanza"
	minRemainder = 4 // characters of a password besides the user's words and siteName
)

// commonPasswords is Django's list of the 20,000 most common passwords, in lower case, one a line; the licence is beside it.
// It stays compressed: a look-up takes 2 ms, a fraction of the hash that follows, and unpacked it would take a megabyte of
// every process. (The zxcvbn ports for Go keep 10 MB, and some passwords of 100 characters cost them seconds.)
//
//go:embed common-passwords.txt.gz
var commonPasswords []byte

// checkStrength rejects passwords that are too short, too long, or among the first that an attacker tries (NIST SP 800-63B,
// 3.1.1.2): those of commonPasswords, also in other letter case, with accents, with signs in place of letters, repeated, or
// with up to maxAffix digits and signs around them; those of fewer than minDistinct characters, sequences and numbers; and
// those that consist of siteName and the words of the user.
func checkStrength(field, password string, userWords ...string) error {
	n := utf8.RuneCountInString(password)
	if !utf8.ValidString(password) || n < minPassword || n > maxPassword {
		return invalid(field, "error.password", minPassword, maxPassword)
	}
	if isWeak(fold(password), userWords) {
		return invalid(field, "error.common")
	}
	return nil
}

// isWeak is the part of checkStrength for a folded password.
func isWeak(text string, userWords []string) bool {
	if distinct(text) < minDistinct || isSequence(text) || strings.Trim(text, "0123456789") == "" {
		return true
	}
	text = repeatedUnit(text)
	rest := withoutWords(text, userWords)
	if utf8.RuneCountInString(rest) < minRemainder || core(rest) == "" {
		return true
	}
	return isCommon(text, core(text), unleet(core(text), 'i'), unleet(core(text), 'l'))
}

// fold returns a text in lower case and without accents.
func fold(text string) string {
	return strings.Map(func(r rune) rune {
		if unicode.Is(unicode.Mn, r) {
			return -1
		}
		return r
	}, norm.NFD.String(strings.ToLower(text)))
}

// repeatedUnit returns the shortest text of which the given one is a repetition, mostly the text itself.
func repeatedUnit(text string) string {
	// A text that is a repetition of its first n bytes is found in its double at n.
	n := 1 + strings.Index((text + text)[1:], text)
	return text[:n]
}

// distinct counts the different characters of a text.
func distinct(text string) int {
	runes := []rune(text)
	slices.Sort(runes)
	return len(slices.Compact(runes))
}

// isSequence reports whether each character follows the one before it, as in 23456789 and hgfedcba.
func isSequence(text string) bool {
	runes := []rune(text)
	for i, r := range runes[1:] {
		if step := r - runes[i]; step != runes[1]-runes[0] || step < -1 || step > 1 {
			return false
		}
	}
	return true
}

// withoutWords removes the words of the user and siteName from a folded text.
func withoutWords(text string, userWords []string) string {
	words := []string{siteName}
	for _, word := range userWords {
		words = append(words, strings.FieldsFunc(fold(word), func(r rune) bool { return !unicode.IsLetter(r) && !unicode.IsDigit(r) })...)
	}
	// The longest first: otherwise a part of a word would leave the rest of it.
	slices.SortFunc(words, func(a, b string) int { return len(b) - len(a) })
	for _, word := range words {
		if utf8.RuneCountInString(word) >= minUserWord {
			text = strings.ReplaceAll(text, word, "")
		}
	}
	return text
}

// core returns a text without the digits and signs around it, if they are at most maxAffix.
func core(text string) string {
	trimmed := strings.TrimFunc(text, func(r rune) bool { return !unicode.IsLetter(r) })
	if utf8.RuneCountInString(text)-utf8.RuneCountInString(trimmed) > maxAffix {
		return text
	}
	return trimmed
}

// unleet replaces the signs that are often typed for letters; one stands for i or l.
func unleet(text string, one rune) string {
	return strings.NewReplacer(
		"@", "a", "4", "a", "3", "e", "1", string(one), "!", string(one), "0", "o", "$", "s", "5", "s", "7", "t",
	).Replace(text)
}

// isCommon reports whether one of the texts is in commonPasswords.
func isCommon(texts ...string) bool {
	unpacked := must(gzip.NewReader(bytes.NewReader(commonPasswords)))
	for lines := bufio.NewScanner(unpacked); lines.Scan(); {
		for _, text := range texts {
			if string(lines.Bytes()) == text {
				return true
			}
		}
	}
	return false
}

// digest is the input of bcrypt, which itself ignores what follows byte 72 and, in some implementations, a NUL. It is
// SHA-256 in base64, so every byte of a password counts and none is NUL.
func digest(password string) []byte {
	sum := sha256.Sum256([]byte(password))
	return base64.StdEncoding.AppendEncode(nil, sum[:])
}
