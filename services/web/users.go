package web

import (
	"context"
	"crypto/rand"
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

// accountForm handles the form of a page, login or signup: it logs the user in whom identify returns, and answers
// JSON clients with status. Wrong credentials and an email that is taken have pages of their own.
func (s *Site) accountForm(page string, status int, identify func(*fiber.Ctx, *form) (store.User, error)) fiber.Handler {
	return func(c *fiber.Ctx) error {
		f, err := readForm(c)
		if err != nil {
			return err
		}
		user, err := identify(c, f)
		if (err == errWrongCredentials || err == errEmailTaken) && !acceptsJSON(c) {
			return c.Redirect("/fail"+page, fiber.StatusSeeOther)
		}
		if err != nil {
			return s.redisplayForm(c, page, f, err)
		}
		return s.logIn(c, user, status)
	}
}

// authenticate returns the user whose email and password the form has. It fails with errWrongCredentials.
func (s *Site) authenticate(c *fiber.Ctx, f *form) (store.User, error) {
	email := store.NormalEmail(f.visibleText("email", 1, maxEmail))
	password := f.password("password")
	if f.err != nil {
		return store.User{}, f.err
	}
	return s.verify(c, email, password)
}

// password returns a field that is to be compared with a password.
func (f *form) password(name string) string {
	password, _ := f.values[name].(string)
	if password == "" {
		f.fail(name, "error.text", name)
	}
	return password
}

// verify returns the user of an email if that is the password. It fails with errWrongCredentials, with 429 after too many
// failures, and with errBusy. Failures and refusals are in the audit log.
func (s *Site) verify(c *fiber.Ctx, email, password string) (user store.User, err error) {
	defer func() {
		switch e, _ := errors.AsType[*httpError](err); {
		case e == errWrongCredentials:
			s.audit(c, auditLoginFailed, email)
		case e != nil:
			s.auditRefusal(c, auditLoginRefused, email)
		}
	}()
	user, err = s.findUser(email)
	if err != nil {
		return store.User{}, err
	}
	t, err := s.hashers.enter(loginLane, s.hashClient(c, user))
	if err != nil {
		return store.User{}, err
	}
	defer t.close()
	attempt, err := s.countAttempt(c, email, user)
	if err != nil {
		return store.User{}, err
	}
	matches, err := t.match(s.work, user.PasswordHash, password)
	if err == nil && !matches {
		return store.User{}, errWrongCredentials
	}
	ctx, cancel := s.storeContext()
	defer cancel()
	return user, errors.Join(err, attempt.undo(ctx)) // without a comparison it was no attempt
}

// findUser returns the user of an email, without a hash when there is none. Its context ends with it, as that of
// countAttempt: the comparison of a password may take longer than a call.
func (s *Site) findUser(email string) (store.User, error) {
	ctx, cancel := s.storeContext()
	defer cancel()
	user, err := s.config.Store.User(ctx, email)
	if errors.Is(err, store.ErrNotFound) {
		err = nil
	}
	return user, err
}

// countAttempt is beginLogin with a context of its own.
func (s *Site) countAttempt(c *fiber.Ctx, email string, user store.User) (*loginAttempt, error) {
	ctx, cancel := s.storeContext()
	defer cancel()
	return s.beginLogin(ctx, c, email, user)
}

// hashClient is the client for whom a hash is computed: a browser that has logged in before does not wait behind others of
// its address.
func (s *Site) hashClient(c *fiber.Ctx, user store.User) string {
	if device := s.deviceID(c); hasDevice(user, device) {
		return device
	}
	return network(clientAddress(c))
}

// register creates the user of a form. It fails with errEmailTaken, with 429 after too many sign-ups, and with errBusy.
func (s *Site) register(c *fiber.Ctx, f *form) (store.User, error) {
	author := readAuthor(f)
	password, ok := f.values["password"].(string)
	if !ok {
		f.fail("password", "error.password", minPassword, maxPassword)
	}
	if f.err != nil {
		return store.User{}, f.err
	}
	user, err := s.createUser(c, author, password)
	if e, ok := errors.AsType[*httpError](err); ok && e.field == "" { // not for the password, nor for an email that is taken
		s.auditRefusal(c, auditSignupRefused, author.ID)
	}
	return user, err
}

// createUser checks the password, counts the sign-up, computes the hash and creates the user.
func (s *Site) createUser(c *fiber.Ctx, author store.Author, password string) (store.User, error) {
	t, err := s.hashers.enter(signupLane, network(clientAddress(c)))
	if err != nil {
		return store.User{}, err
	}
	defer t.close()
	if err := checkStrength("password", password, author.ID, author.Nombre, author.Apellido, author.Alias); err != nil {
		return store.User{}, err
	}
	if err := s.checkSignup(c, author.ID); err != nil {
		return store.User{}, err
	}
	hash, err := t.hash(s.work, password)
	if err != nil {
		return store.User{}, err
	}
	ctx, cancel := s.storeContext()
	defer cancel()
	now, err := s.now(ctx)
	if err != nil {
		return store.User{}, err
	}
	user := store.User{Email: author.ID, PasswordHash: hash, Author: author, Created: now, Generation: rand.Text()}
	err = s.config.Store.CreateUser(ctx, user)
	if errors.Is(err, store.ErrTaken) {
		err = errEmailTaken
	}
	if err == nil {
		s.audit(c, auditSignup, user.Email)
	}
	return user, err
}

// checkSignup counts a sign-up from the client's address, and then fails with errEmailTaken when the email has an account.
func (s *Site) checkSignup(c *fiber.Ctx, email string) error {
	ctx, cancel := s.storeContext()
	defer cancel()
	signups := budget{"signup/" + network(clientAddress(c)), s.config.Limits.Signups, signupWindow}
	if err := s.spend(ctx, signups, "error.signups"); err != nil {
		return err
	}
	switch _, err := s.config.Store.User(ctx, email); {
	case err == nil:
		return errEmailTaken
	case errors.Is(err, store.ErrNotFound):
		return nil
	default:
		return err
	}
}

// readAuthor reads the profile of a new user, whose id is the normalised email. Messages carry the profile.
func readAuthor(f *form) store.Author {
	a := store.Author{
		ID:       readEmail(f),
		Nombre:   f.visibleText("nombre", 1, maxName),
		Apellido: f.visibleText("apellido", 1, maxName),
	}
	age := f.number("edad", 1, maxAge)
	a.Edad = int(age)
	if age != float64(a.Edad) {
		f.fail("edad", "error.whole", "edad")
	}
	a.Alias = f.visibleText("alias", 1, maxAlias)
	if f.values["avatar"] != nil && f.values["avatar"] != "" {
		a.Avatar = f.picture("avatar")
	}
	return a
}

// readEmail reads an address without a display name or quotes: net/mail accepts more forms of an address, of which
// several would name the same mailbox.
func readEmail(f *form) string {
	text := f.visibleText("email", 1, maxEmail)
	address, err := mail.ParseAddress(text)
	email := store.NormalEmail(text)
	if err != nil || address.Address != text || strings.ContainsAny(text, " \"<>()") || len(email) > maxEmail {
		f.fail("email", "error.email")
	}
	return email
}

// logIn starts a session for a user whose password was checked. Browsers are redirected to the application; other clients
// get the status and {"email": …}.
func (s *Site) logIn(c *fiber.Ctx, user store.User, status int) error {
	ctx, cancel := s.storeContext()
	defer cancel()
	if err := s.rememberDevice(ctx, c, user); err != nil {
		return err
	}
	if err := s.startSession(ctx, c, user); err != nil {
		return err
	}
	s.audit(c, auditLogin, user.Email)
	if acceptsJSON(c) {
		return c.Status(status).JSON(fiber.Map{"email": user.Email})
	}
	return c.Redirect("/", fiber.StatusSeeOther)
}

// showLogout shows the button that logs out. A picture or a link of another page can call it, so it changes nothing.
func (s *Site) showLogout(_ context.Context, c *fiber.Ctx, session store.Session) error {
	return s.show(c, "logout", Page{Email: session.Email})
}

// logout ends the session and shows its page, which leads to the log-in after 2 s.
func (s *Site) logout(ctx context.Context, c *fiber.Ctx, session store.Session) error {
	if err := s.endSession(ctx, session.ID); err != nil {
		return err
	}
	s.setCookie(c, "")
	s.audit(c, auditLogout, session.Email)
	if acceptsJSON(c) {
		return c.JSON(fiber.Map{"email": session.Email})
	}
	return s.show(c, "loggedout", Page{Data: session.Email})
}

// redisplayForm answers a form that has a wrong field with the form, its error and its typed values. The password is
// left out: it must not be in a page's source.
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
