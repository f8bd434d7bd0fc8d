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
	minPassword = 8               // characters
	maxPassword = 256             // characters
	hashCost    = 10              // of bcrypt, about 50 ms of a core
	hashTimeout = 5 * time.Second // for a free hasher
)

var errBusy = temporaryError("error.busy")

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

// checkPassword rejects passwords that are too short, too long, or among the first that an attacker tries.
func checkPassword(password, email string) error {
	n := utf8.RuneCountInString(password)
	lower := strings.ToLower(password)
	name, _, _ := strings.Cut(email, "@")
	switch {
	case !utf8.ValidString(password) || n < minPassword || n > maxPassword:
		return invalid("password", "error.password", minPassword, maxPassword)
	case commonPasswords()[lower] || lower == email || lower == name || strings.Count(lower, lower[:1]) == len(lower):
		return invalid("password", "error.common")
	}
	return nil
}

// hashers limits how many hashes are computed at a time, so that log-ins leave processor time to other requests.
type hashers chan struct{}

// newHashers allows as many hashes at a time as half of the processors can compute.
func newHashers() hashers { return make(hashers, max(1, runtime.GOMAXPROCS(0)/2)) }

// acquire waits for a free hasher. It fails with errBusy after hashTimeout, or when ctx ends.
func (h hashers) acquire(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, hashTimeout)
	defer cancel()
	select {
	case h <- struct{}{}:
		return nil
	case <-ctx.Done():
		return errBusy
	}
}

// hash returns the bcrypt hash of a new password. It fails with errBusy.
func (h hashers) hash(ctx context.Context, password string) ([]byte, error) {
	if err := h.acquire(ctx); err != nil {
		return nil, err
	}
	defer func() { <-h }()
	return bcrypt.GenerateFromPassword(digest(password), hashCost)
}

// match reports whether a password has the hash. Without a hash it is false, after the same time, so that the time does
// not show which emails have an account.
func (h hashers) match(ctx context.Context, hash []byte, password string) (bool, error) {
	noUser := len(hash) == 0
	if noUser {
		hash = dummyHash
	}
	if err := h.acquire(ctx); err != nil {
		return false, err
	}
	defer func() { <-h }()
	err := bcrypt.CompareHashAndPassword(hash, digest(password))
	if err != nil && !errors.Is(err, bcrypt.ErrMismatchedHashAndPassword) {
		return false, err
	}
	return err == nil && !noUser, nil
}

// digest is the input of bcrypt, which itself ignores what follows byte 72 and, in some implementations, a NUL. It is
// SHA-256 in base64, so every byte of a password counts and none is NUL.
func digest(password string) []byte {
	sum := sha256.Sum256([]byte(password))
	return base64.StdEncoding.AppendEncode(nil, sum[:])
}

// dummyHash is compared with when there is no such user. Its cost is hashCost.
var dummyHash = []byte("$2a$10$NsZra8KZqdk86a8MsQIhxuX92K.JMI92o8ucyqUKMwz0hNH/DWy4u")
