package web

import (
	"context"
	"errors"
	"net/mail"
	"strings"
	"time"

	"github.com/gofiber/fiber/v2"

	"balanza/services/store"
)

const (
	maxEmail = 254 // characters (RFC 5321, 4.5.3.1)
	maxName  = 100
	maxAlias = 50
	maxAge   = 150 // years
)

// Errors of the log-in and the sign-up. The former does not say which of email and password is wrong.
var (
	errWrongCredentials = &httpError{status: fiber.StatusUnauthorized, code: codeUnauthorised, text: "faillogin.text"}
	errEmailTaken       = &httpError{status: fiber.StatusConflict, code: codeTaken, text: "failsignup.text", field: "email"}
)

// account is the JSON answer of /login and /signup.
type account struct {
	Email string `json:"email"`
}

// login handles the log-in form.
func (s *Site) login(c *fiber.Ctx) error {
	f, err := readForm(c)
	if err != nil {
		return err
	}
	email, err := s.authenticate(c, f)
	if err == errWrongCredentials && !acceptsJSON(c) {
		return c.Redirect("/faillogin", fiber.StatusSeeOther)
	}
	if err != nil {
		return s.redisplayForm(c, "login", f, err)
	}
	return s.logIn(c, email, fiber.StatusOK)
}

// authenticate returns the email of the user whose email and password the form has. It fails with errWrongCredentials.
func (s *Site) authenticate(c *fiber.Ctx, f *form) (string, error) {
	email := store.NormalEmail(f.text("email", 1, maxEmail))
	password, _ := f.values["password"].(string)
	if password == "" {
		f.fail("password", "error.text", "password")
	}
	if f.err != nil {
		return "", f.err
	}
	undo, hash, err := s.findHash(c, email)
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

// signup handles the sign-up form.
func (s *Site) signup(c *fiber.Ctx) error {
	f, err := readForm(c)
	if err != nil {
		return err
	}
	user, err := s.register(f)
	if err == errEmailTaken && !acceptsJSON(c) {
		return c.Redirect("/failsignup", fiber.StatusSeeOther)
	}
	if err != nil {
		return s.redisplayForm(c, "signup", f, err)
	}
	return s.logIn(c, user.Email, fiber.StatusCreated)
}

// register creates a user. It fails with errEmailTaken.
func (s *Site) register(f *form) (store.User, error) {
	author := readAuthor(f)
	password, ok := f.values["password"].(string)
	if !ok {
		f.fail("password", "error.password", minPassword, maxPassword)
	}
	if f.err != nil {
		return store.User{}, f.err
	}
	if err := checkPassword(password, author.ID); err != nil {
		return store.User{}, err
	}
	hash, err := s.hashers.hash(s.work, password)
	if err != nil {
		return store.User{}, err
	}
	ctx, cancel := s.storeContext()
	defer cancel()
	user := store.User{Email: author.ID, PasswordHash: hash, Author: author, Created: time.Now().UTC()}
	err = s.config.Store.CreateUser(ctx, user)
	if errors.Is(err, store.ErrTaken) {
		err = errEmailTaken
	}
	return user, err
}

// readAuthor reads the profile of a new user, whose id is the normalised email.
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

// readEmail reads an address without a display name or quotes.
func readEmail(f *form) string {
	text := f.text("email", 1, maxEmail)
	address, err := mail.ParseAddress(text)
	if err != nil || address.Address != text || strings.ContainsAny(text, " \"<>()") {
		f.fail("email", "error.email")
	}
	return store.NormalEmail(text)
}

// logIn starts a session for a user whose password was checked.
func (s *Site) logIn(c *fiber.Ctx, email string, status int) error {
	ctx, cancel := s.storeContext()
	defer cancel()
	if err := s.startSession(ctx, c, email); err != nil {
		return err
	}
	if acceptsJSON(c) {
		return c.Status(status).JSON(account{email})
	}
	return c.Redirect("/", fiber.StatusSeeOther)
}

// logout ends the session and shows the farewell view.
func (s *Site) logout(ctx context.Context, c *fiber.Ctx, session store.Session) error {
	if err := s.endSession(ctx, session.ID); err != nil {
		return err
	}
	setCookie(c, "")
	if acceptsJSON(c) {
		return c.JSON(account{session.Email})
	}
	return s.show(c, "logout", Page{Data: session.Email})
}

// redisplayForm shows a form again with the error and with the typed values, except the password.
func (s *Site) redisplayForm(c *fiber.Ctx, page string, typed *form, err error) error {
	f, ok := errors.AsType[*httpError](err)
	if !ok || f.field == "" || acceptsJSON(c) {
		return err
	}
	values := make(map[string]string)
	for name, value := range typed.values {
		if text, ok := value.(string); ok && name != "password" {
			values[name] = text
		}
	}
	c.Status(f.status)
	return s.show(c, page, Page{Error: s.texts[lang(c)].format(f.text, f.args...), Field: f.field, Data: values})
}

// acceptsJSON tells whether a client that posts to a page wants JSON back: by its Accept header, or since it posts JSON.
func acceptsJSON(c *fiber.Ctx) bool {
	return wantsJSON(c, strings.HasPrefix(c.Get(fiber.HeaderContentType), fiber.MIMEApplicationJSON))
}
