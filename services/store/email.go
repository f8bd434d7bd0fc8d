package store

import (
	"strings"

	"golang.org/x/text/unicode/norm"
)

// NormalEmail returns the spelling under which an email is stored and compared: lower case, in Unicode's normal form NFC,
// without surrounding blanks. So ñ is one letter, whether a keyboard sends it as one character or as n and a tilde.
func NormalEmail(email string) string {
	return norm.NFC.String(strings.ToLower(norm.NFC.String(strings.TrimSpace(email))))
}
