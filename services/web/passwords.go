package web

import (
	"context"
	"crypto/sha256"
	_ "embed"
	"encoding/base64"
	"errors"
	"runtime"
	"strings"
	"sync"
	"time"
	"unicode/utf8"

	"golang.org/x/crypto/bcrypt"
)

const (
	shortestPassword = 8   // characters
	longestPassword  = 256 // characters
	hashCost         = 10  // about 50 ms of a core
	hashPatience     = 5 * time.Second
)

var busy = notNow("error.busy")

// The most common passwords of eight characters and more, one a line.
//
//go:embed passwords.txt
var commonText string

var commonPasswords = sync.OnceValue(func() map[string]bool {
	common := make(map[string]bool)
	for password := range strings.Lines(commonText) {
		common[strings.TrimSpace(password)] = true
	}
	return common
})

// checkPassword refuses what is too short or what everybody tries first.
func checkPassword(password, email string) error {
	n := utf8.RuneCountInString(password)
	lower := strings.ToLower(password)
	name, _, _ := strings.Cut(email, "@")
	switch {
	case !utf8.ValidString(password) || n < shortestPassword || n > longestPassword:
		return invalid("password", "error.password", shortestPassword, longestPassword)
	case commonPasswords()[lower] || lower == email || lower == name || strings.Count(lower, lower[:1]) == len(lower):
		return invalid("password", "error.common")
	}
	return nil
}

// hashers lets few hashes be computed at a time, so that log-ins leave processor time to everything else.
type hashers chan struct{}

func newHashers() hashers { return make(hashers, max(1, runtime.GOMAXPROCS(0)/2)) }

// enter waits for a turn; it fails when there are too many before, or when ctx ends.
func (h hashers) enter(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, hashPatience)
	defer cancel()
	select {
	case h <- struct{}{}:
		return nil
	case <-ctx.Done():
		return busy
	}
}

func (h hashers) hash(ctx context.Context, password string) ([]byte, error) {
	if err := h.enter(ctx); err != nil {
		return nil, err
	}
	defer func() { <-h }()
	return bcrypt.GenerateFromPassword(digest(password), hashCost)
}

// match tells whether the password is the hash's. It takes as long when there is no hash, which then nothing matches.
func (h hashers) match(ctx context.Context, hash []byte, password string) (bool, error) {
	nobody := len(hash) == 0
	if nobody {
		hash = nobodysHash
	}
	if err := h.enter(ctx); err != nil {
		return false, err
	}
	defer func() { <-h }()
	err := bcrypt.CompareHashAndPassword(hash, digest(password))
	if err != nil && !errors.Is(err, bcrypt.ErrMismatchedHashAndPassword) {
		return false, err
	}
	return err == nil && !nobody, nil
}

// digest makes every byte of a password count: bcrypt itself ignores what follows byte 72, and stops at a NUL in some
// of its implementations, which is why the digest is in base64.
func digest(password string) []byte {
	sum := sha256.Sum256([]byte(password))
	return base64.StdEncoding.AppendEncode(nil, sum[:])
}

// nobodysHash is what a password is compared with when there is no such user; its cost is hashCost.
var nobodysHash = []byte("$2a$10$NsZra8KZqdk86a8MsQIhxuX92K.JMI92o8ucyqUKMwz0hNH/DWy4u")
