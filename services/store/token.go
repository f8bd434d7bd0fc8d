package store

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
)

// tokenSize is the number of random bytes of a token.
const tokenSize = 32

// NewToken returns a random value for a cookie: 32 bytes in base64.
func NewToken() string {
	var random [tokenSize]byte
	_, _ = rand.Read(random[:]) // never fails
	return base64.RawURLEncoding.EncodeToString(random[:])
}

// IsToken reports whether a text has the form of a token.
func IsToken(text string) bool {
	b, err := base64.RawURLEncoding.Strict().DecodeString(text)
	return err == nil && len(b) == tokenSize
}

// HashToken returns what a store keeps of a token: whoever reads the database cannot use it as a cookie. One round of
// SHA-256 without a salt is enough: a salt and a slow hash protect what can be guessed, and a token has 256 random bits.
func HashToken(token string) string {
	sum := sha256.Sum256([]byte(token))
	return base64.RawURLEncoding.EncodeToString(sum[:])
}
