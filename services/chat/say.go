package chat

import (
	"context"
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

// Say stores a message and returns its entry. The same author and clientID again give the entry that is stored already,
// whatever the text, so a page may repeat what was not acknowledged. It fails with an *InvalidError, or with
// store.ErrUnavailable when the message is not known to be stored.
func (h *Hub) Say(ctx context.Context, author store.Author, text, clientID string) (store.Entry, error) {
	if err := checkText(text); err != nil {
		return store.Entry{}, err
	}
	if err := checkClientID(clientID); err != nil {
		return store.Entry{}, err
	}
	return h.log.Append(ctx, store.Entry{
		Kind:     store.MessageSaid,
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
