package chat

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"

	"balanza/services/store"
)

const (
	// MaxText is the longest text of a message, in characters.
	MaxText = 1000
	// MaxClientID is the longest id that a page may give its message, in bytes.
	MaxClientID = 64
)

// InvalidError names the field of a message that is wrong, and says why.
type InvalidError struct{ Field, Reason string }

func (e *InvalidError) Error() string { return e.Field + ": " + e.Reason }

// Send queues a message for the log: calls that follow each other keep their order. The function that it returns, to be
// called once, waits until the message is stored and returns its entry. The same author and clientID again give the entry
// that is stored already, whatever the text, so that a page may repeat a message that was not acknowledged. The error is
// an *InvalidError, a *TooManyError, or a store.ErrUnavailable when the message is not known to be stored.
func (h *Hub) Send(ctx context.Context, author store.Author, text, clientID string) (stored func() (store.Entry, error)) {
	if err := errors.Join(checkText(text), checkClientID(clientID)); err != nil {
		return func() (store.Entry, error) { return store.Entry{}, err }
	}
	if err := h.reserve(ctx, author.ID, clientID); err != nil {
		return func() (store.Entry, error) { return store.Entry{}, err }
	}
	result := h.log.Submit(ctx, store.Entry{
		Kind:     store.MessagePosted,
		Message:  &store.Message{Author: author, Text: text}, // the log sets the time
		Author:   author.ID,
		ClientID: clientID,
	})
	return func() (e store.Entry, err error) {
		defer func() { h.rates.release(author.ID, e.N) }()
		return result()
	}
}

// reserve counts a message for its author's limit. The repeat of a recent message passes even when the limit is reached.
func (h *Hub) reserve(ctx context.Context, author, clientID string) error {
	now, err := h.log.Now(ctx)
	if err != nil {
		return err
	}
	wait := h.rates.reserve(author, now)
	if wait == 0 {
		return nil
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	id := store.EntryID{Author: author, ClientID: clientID}
	if slices.ContainsFunc(h.messages, func(e store.Entry) bool { return e.ID() == id }) {
		h.rates.reserveRepeat(author)
		return nil
	}
	return &TooManyError{Wait: wait}
}

// checkText returns an *InvalidError unless a text is 1 to MaxText characters, one of them not blank.
func checkText(text string) error {
	switch {
	case !utf8.ValidString(text):
		return &InvalidError{"text", "is not valid UTF-8"}
	case strings.TrimSpace(text) == "":
		return &InvalidError{"text", "is empty"}
	case utf8.RuneCountInString(text) > MaxText:
		return &InvalidError{"text", fmt.Sprintf("is longer than %d characters", MaxText)}
	case strings.ContainsRune(text, 0):
		return &InvalidError{"text", "holds a NUL character"} // not every store preserves it
	}
	return nil
}

// checkClientID returns an *InvalidError unless an id is 1 to MaxClientID bytes of printable characters.
func checkClientID(id string) error {
	switch {
	case id == "":
		return &InvalidError{"clientId", "is empty"}
	case len(id) > MaxClientID:
		return &InvalidError{"clientId", fmt.Sprintf("is longer than %d bytes", MaxClientID)}
	case strings.ContainsFunc(id, func(r rune) bool { return !unicode.IsPrint(r) || r == utf8.RuneError }):
		return &InvalidError{"clientId", "holds a character that is not printable"}
	}
	return nil
}
