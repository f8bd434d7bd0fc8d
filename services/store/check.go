package store

import (
	"fmt"
	"math"
	"strings"
	"unicode/utf8"
)

// CheckText fails with ErrInvalid when a text is not valid UTF-8 or contains a NUL. Implementations call it before their
// driver, since databases disagree about such strings: one rejects them, another changes them or cuts them off.
func CheckText(texts ...string) error {
	for _, text := range texts {
		if !utf8.ValidString(text) || strings.ContainsRune(text, 0) {
			return fmt.Errorf("%w: %.40q is not UTF-8 text without NUL", ErrInvalid, text)
		}
	}
	return nil
}

// Check applies CheckText to every text of a user.
func (u User) Check() error {
	if err := CheckText(append(u.Devices, u.Email, u.Generation)...); err != nil {
		return err
	}
	return u.Author.check()
}

// Check applies CheckText to every text of a session.
func (s Session) Check() error {
	return CheckText(s.ID, s.Email, s.Generation, s.Agent, s.Address)
}

// Check applies CheckText to every text of a product, and fails with ErrInvalid when the price is NaN or infinite: JSON
// has no such numbers, so no list of products that contains one could be sent.
func (p Product) Check() error {
	if math.IsNaN(p.Precio) || math.IsInf(p.Precio, 0) {
		return fmt.Errorf("%w: precio %v is not a number", ErrInvalid, p.Precio)
	}
	return CheckText(p.ID, p.Nombre, p.Foto, p.Owner)
}

// Limits of a process's record, in bytes.
const (
	MaxProcessText = 256 // of each text
	MaxHistory     = 2048
)

// Check applies CheckText to every text of a process's record, and fails with ErrInvalid when one is longer than
// MaxProcessText, when the history is longer than MaxHistory, or when a number is NaN or infinite.
func (p Process) Check() error {
	texts := []string{
		p.ID, p.Service, p.Server, p.Mode, p.Host, p.Machine, p.Version, string(p.State), p.Cause, p.Predecessor.Cause,
	}
	for _, text := range texts {
		if len(text) > MaxProcessText {
			return fmt.Errorf("%w: %.40q… has %d bytes, more than %d", ErrInvalid, text, len(text), MaxProcessText)
		}
	}
	if len(p.History) > MaxHistory {
		return fmt.Errorf("%w: a history of %d bytes, more than %d", ErrInvalid, len(p.History), MaxHistory)
	}
	for _, number := range []float64{p.Rate, p.CPU} {
		if math.IsNaN(number) || math.IsInf(number, 0) {
			return fmt.Errorf("%w: %v is not a number", ErrInvalid, number)
		}
	}
	return CheckText(texts...)
}

// Check applies CheckText to every text of an entry, and fails with ErrInvalid unless the entry contains a message exactly
// when its kind is MessagePosted.
func (e Entry) Check() error {
	if err := CheckText(string(e.Kind), e.Subject, e.Author, e.ClientID); err != nil {
		return err
	}
	if (e.Message != nil) != (e.Kind == MessagePosted) {
		return fmt.Errorf("%w: an entry of kind %q with message %v", ErrInvalid, e.Kind, e.Message != nil)
	}
	if e.Message == nil {
		return nil
	}
	if err := CheckText(e.Message.Text); err != nil {
		return err
	}
	return e.Message.Author.check()
}

func (a Author) check() error {
	return CheckText(a.ID, a.Nombre, a.Apellido, a.Alias, a.Avatar)
}
