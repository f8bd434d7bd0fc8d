package store

import "strings"

// NormalEmail returns the spelling under which an email is stored and compared: lower case, without surrounding blanks.
func NormalEmail(email string) string {
	return strings.ToLower(strings.TrimSpace(email))
}
