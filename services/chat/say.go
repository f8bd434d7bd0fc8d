package chat

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"
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

// InvalidError says which field of a message is wrong and why.
type InvalidError struct{ Field, Reason string }

func (e *InvalidError) Error() string { return e.Field + ": " + e.Reason }

// Say has a message stored, after what was said before and before what is said next. The function that it returns, to be called
// once, waits for that and returns the entry. The same author and clientID again give the entry that is stored already,
// whatever the text, so a page may repeat what was not acknowledged. It fails with an *InvalidError, or with
// store.ErrUnavailable when the message is not known to be stored.
func (h *Hub) Say(ctx context.Context, author store.Author, text, clientID string) (stored func() (store.Entry, error)) {
	if err := errors.Join(checkText(text), checkClientID(clientID)); err != nil {
		return func() (store.Entry, error) { return store.Entry{}, err }
	}
	return h.log.Submit(ctx, store.Entry{
		Kind:     store.MessagePosted,
		Message:  &store.Message{Author: author, Text: text, Time: time.Now().UTC().Truncate(time.Millisecond)},
		Author:   author.ID,
		ClientID: clientID,
	})
}

func checkText(text string) error {
	switch {
	case !utf8.ValidString(text):
		return &InvalidError{"text", "is not valid UTF-8"}
	case strings.TrimSpace(text) == "":
		return &InvalidError{"text", "is empty"}
	case utf8.RuneCountInString(text) > MaxText:
		return &InvalidError{"text", fmt.Sprintf("is longer than %d characters", MaxText)}
	case strings.ContainsRune(text, 0):
		return &InvalidError{"text", "holds a NUL character"} // not every store keeps one
	}
	return nil
}

func checkClientID(id string) error {
	printable := func(r rune) bool { return unicode.IsPrint(r) && r != utf8.RuneError }
	switch {
	case id == "":
		return &InvalidError{"clientId", "is empty"}
	case len(id) > MaxClientID:
		return &InvalidError{"clientId", fmt.Sprintf("is longer than %d bytes", MaxClientID)}
	case strings.ContainsFunc(id, func(r rune) bool { return !printable(r) }):
		return &InvalidError{"clientId", "holds a character that is not printable"}
	}
	return nil
}
