package store

import "strings"

// NormalEmail gives the one spelling under which an email is kept: without blanks around it, in lower case.
func NormalEmail(email string) string {
	return strings.ToLower(strings.TrimSpace(email))
}
