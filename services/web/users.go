package web

import (
	"context"
	"errors"
	"net/mail"
	"strings"

	"github.com/gofiber/fiber/v2"

	"balanza/services/store"
)

const (
	maxEmail = 254 // bytes (RFC 5321, 4.5.3.1)
	maxName  = 100 // characters, of a person or of a product
	maxAlias = 50  // characters
	maxAge   = 150 // years
)

// Errors of the log-in and the sign-up. The former does not say which of email and password is wrong, so that the log-in
// does not reveal which emails have an account.
var (
	errWrongCredentials = &httpError{status: fiber.StatusUnauthorized, code: codeUnauthorised, text: "faillogin.text"}
	errEmailTaken       = &httpError{status: fiber.StatusConflict, code: codeTaken, text: "failsignup.text", field: "email"}
)

// accountForm handles the form of a page, login or signup: it logs the user in whose email identify returns, and answers
// JSON clients with status. Wrong credentials and an email that is taken have pages of their own.
func (s *Site) accountForm(page string, status int, identify func(*fiber.Ctx, *form) (string, error)) fiber.Handler {
	return func(c *fiber.Ctx) error {
		f, err := readForm(c)
		if err != nil {
			return err
		}
		email, err := identify(c, f)
		if (err == errWrongCredentials || err == errEmailTaken) && !acceptsJSON(c) {
			return c.Redirect("/fail"+page, fiber.StatusSeeOther)
		}
		if err != nil {
			return s.redisplayForm(c, page, f, err)
		}
		return s.logIn(c, email, status)
	}
}

// authenticate returns the email of the user whose email and password the form has. It fails with errWrongCredentials.
// The attempt is counted before the slow comparison, so that attempts in parallel cannot exceed the limit, and taken off
// the count after a success.
func (s *Site) authenticate(c *fiber.Ctx, f *form) (string, error) {
	email := store.NormalEmail(f.text("email", 1, maxEmail))
	password, _ := f.values["password"].(string)
	if password == "" {
		f.fail("password", "error.text", "password")
	}
	if f.err != nil {
		return "", f.err
	}
	undo, hash, err := s.findHash(c, email) // its context ends with it: the comparison may take longer than a call
	if err != nil {
		return "", err
	}
	matches, err := s.hashers.match(s.work, hash, password)
	switch {
	case err != nil:
		return "", err
	case !matches:
		return "", errWrongCredentials
	}
	ctx, cancel := s.storeContext()
	defer cancel()
	return email, undo(ctx)
}

// findHash counts the attempt to log in and returns the hash of the user's password, nil when there is no such user.
func (s *Site) findHash(c *fiber.Ctx, email string) (undo func(context.Context) error, hash []byte, err error) {
	ctx, cancel := s.storeContext()
	defer cancel()
	if undo, err = s.countLogin(ctx, c, email); err != nil {
		return nil, nil, err
	}
	user, err := s.config.Store.User(ctx, email)
	if err != nil && !errors.Is(err, store.ErrNotFound) {
		return nil, nil, err
	}
	return undo, user.PasswordHash, nil
}

// register creates the user of a form and returns the email. It fails with errEmailTaken.
func (s *Site) register(_ *fiber.Ctx, f *form) (string, error) {
	author := readAuthor(f)
	password, ok := f.values["password"].(string)
	if !ok {
		f.fail("password", "error.password", minPassword, maxPassword)
	}
	if f.err != nil {
		return "", f.err
	}
	if err := checkPassword(password, author.ID); err != nil {
		return "", err
	}
	hash, err := s.hashers.hash(s.work, password)
	if err != nil {
		return "", err
	}
	ctx, cancel := s.storeContext()
	defer cancel()
	now, err := s.now(ctx)
	if err != nil {
		return "", err
	}
	user := store.User{Email: author.ID, PasswordHash: hash, Author: author, Created: now}
	err = s.config.Store.CreateUser(ctx, user)
	if errors.Is(err, store.ErrTaken) {
		err = errEmailTaken
	}
	return user.Email, err
}

// readAuthor reads the profile of a new user, whose id is the normalised email. Messages carry the profile.
func readAuthor(f *form) store.Author {
	a := store.Author{
		ID:       readEmail(f),
		Nombre:   f.text("nombre", 1, maxName),
		Apellido: f.text("apellido", 1, maxName),
	}
	age := f.number("edad", 1, maxAge)
	a.Edad = int(age)
	if age != float64(a.Edad) {
		f.fail("edad", "error.whole", "edad")
	}
	a.Alias = f.text("alias", 1, maxAlias)
	if f.values["avatar"] != nil && f.values["avatar"] != "" {
		a.Avatar = f.picture("avatar")
	}
	return a
}

// readEmail reads an address without a display name or quotes: net/mail accepts more forms of an address, of which
// several would name the same mailbox.
func readEmail(f *form) string {
	text := f.text("email", 1, maxEmail)
	address, err := mail.ParseAddress(text)
	if err != nil || address.Address != text || strings.ContainsAny(text, " \"<>()") || len(text) > maxEmail {
		f.fail("email", "error.email")
	}
	return store.NormalEmail(text)
}

// logIn starts a session for a user whose password was checked. Browsers are redirected to the application; other clients
// get the status and {"email": …}.
func (s *Site) logIn(c *fiber.Ctx, email string, status int) error {
	ctx, cancel := s.storeContext()
	defer cancel()
	if err := s.startSession(ctx, c, email); err != nil {
		return err
	}
	if acceptsJSON(c) {
		return c.Status(status).JSON(fiber.Map{"email": email})
	}
	return c.Redirect("/", fiber.StatusSeeOther)
}

// logout ends the session and shows its page, which leads to the log-in after 2 s.
func (s *Site) logout(ctx context.Context, c *fiber.Ctx, session store.Session) error {
	if err := s.endSession(ctx, session.ID); err != nil {
		return err
	}
	setCookie(c, "")
	if acceptsJSON(c) {
		return c.JSON(fiber.Map{"email": session.Email})
	}
	return s.show(c, "logout", Page{Data: session.Email})
}

// redisplayForm answers a form that has a wrong field with the form, its error and its typed values. The password is
// left out: it must not stand in a page's source.
func (s *Site) redisplayForm(c *fiber.Ctx, page string, typed *form, err error) error {
	e, ok := errors.AsType[*httpError](err)
	if !ok || e.field == "" || acceptsJSON(c) {
		return err
	}
	values := make(map[string]string)
	for name, value := range typed.values {
		if text, ok := value.(string); ok && name != "password" {
			values[name] = text
		}
	}
	c.Status(e.status)
	return s.show(c, page, Page{Error: s.texts[lang(c)].format(e.text, e.args...), Field: e.field, Data: values})
}

// acceptsJSON reports whether a client that posts to a page wants JSON back: by its Accept header, or since it posts JSON.
func acceptsJSON(c *fiber.Ctx) bool {
	return wantsJSON(c, strings.HasPrefix(c.Get(fiber.HeaderContentType), fiber.MIMEApplicationJSON))
}
