package store

import (
	"fmt"
	"math"
	"strings"
	"unicode/utf8"
)

// CheckText fails with ErrInvalid when a text is not valid UTF-8 or holds a NUL. Implementations ask it first, since
// databases disagree about such strings: one refuses them, another changes or cuts them.
func CheckText(texts ...string) error {
	for _, text := range texts {
		if !utf8.ValidString(text) || strings.ContainsRune(text, 0) {
			return fmt.Errorf("%w: %.40q is not UTF-8 text without NUL", ErrInvalid, text)
		}
	}
	return nil
}

// Check is CheckText for all that a user holds.
func (u User) Check() error {
	if err := CheckText(u.Email); err != nil {
		return err
	}
	return u.Author.check()
}

// Check is CheckText for all that a product holds; its price must be a number.
func (p Product) Check() error {
	if math.IsNaN(p.Precio) || math.IsInf(p.Precio, 0) {
		return fmt.Errorf("%w: precio %v is not a number", ErrInvalid, p.Precio)
	}
	return CheckText(p.ID, p.Nombre, p.Foto)
}

// Check is CheckText for all that an entry holds; a message must be there exactly when the kind says so.
func (e Entry) Check() error {
	if err := CheckText(string(e.Kind), e.Subject, e.Author, e.ClientID); err != nil {
		return err
	}
	if (e.Message != nil) != (e.Kind == MessageSaid) {
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
