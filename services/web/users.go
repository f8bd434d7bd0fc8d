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
	longestEmail = 254 // characters, as RFC 5321 has it
	longestName  = 100
	longestAlias = 50
	oldest       = 150 // years
)

// The answers to a log-in and to a sign-up that fail. Which of email and password is wrong is not told.
var (
	wrongLogin = &failure{status: fiber.StatusUnauthorized, code: codeUnauthorised, text: "faillogin.text"}
	emailTaken = &failure{status: fiber.StatusConflict, code: codeTaken, text: "failsignup.text", field: "email"}
)

// account is what /login and /signup answer as JSON.
type account struct {
	Email string `json:"email"`
}

// login answers the log-in form.
func (s *Site) login(c *fiber.Ctx) error {
	f, err := readFields(c)
	if err != nil {
		return err
	}
	email, err := s.authenticate(c, f)
	if err == wrongLogin && !speaksJSON(c) {
		return c.Redirect("/faillogin", fiber.StatusSeeOther)
	}
	if err != nil {
		return s.again(c, "login", f, err)
	}
	return s.welcome(c, email, fiber.StatusOK)
}

// authenticate gives the email of the user whose email and password the fields are. It fails with wrongLogin.
func (s *Site) authenticate(c *fiber.Ctx, f fields) (string, error) {
	email, err := f.text("email", 1, longestEmail)
	if err != nil {
		return "", err
	}
	email = store.NormalEmail(email)
	password, ok := f["password"].(string)
	if !ok || password == "" {
		return "", invalid("password", "error.text", "password")
	}
	forget, hash, err := s.findHash(c, email)
	if err != nil {
		return "", err
	}
	matches, err := s.hashers.match(s.work, hash, password)
	switch {
	case err != nil:
		return "", err
	case !matches:
		return "", wrongLogin
	}
	ctx, cancel := s.asking()
	defer cancel()
	return email, forget(ctx)
}

// findHash counts an attempt to log in and gives the hash of the user's password, none when there is no such user.
func (s *Site) findHash(c *fiber.Ctx, email string) (forget func(context.Context) error, hash []byte, err error) {
	ctx, cancel := s.asking()
	defer cancel()
	if forget, err = s.attempt(ctx, c, email); err != nil {
		return nil, nil, err
	}
	user, err := s.config.Store.User(ctx, email)
	if err != nil && !errors.Is(err, store.ErrNotFound) {
		return nil, nil, err
	}
	return forget, user.PasswordHash, nil
}

// signup answers the sign-up form.
func (s *Site) signup(c *fiber.Ctx) error {
	f, err := readFields(c)
	if err != nil {
		return err
	}
	user, err := s.register(f)
	if err == emailTaken && !speaksJSON(c) {
		return c.Redirect("/failsignup", fiber.StatusSeeOther)
	}
	if err != nil {
		return s.again(c, "signup", f, err)
	}
	return s.welcome(c, user.Email, fiber.StatusCreated)
}

// register creates a user. It fails with emailTaken.
func (s *Site) register(f fields) (store.User, error) {
	author, err := readAuthor(f)
	if err != nil {
		return store.User{}, err
	}
	password, ok := f["password"].(string)
	if !ok {
		return store.User{}, invalid("password", "error.password", shortestPassword, longestPassword)
	}
	if err := checkPassword(password, author.ID); err != nil {
		return store.User{}, err
	}
	hash, err := s.hashers.hash(s.work, password)
	if err != nil {
		return store.User{}, err
	}
	ctx, cancel := s.asking()
	defer cancel()
	user := store.User{Email: author.ID, PasswordHash: hash, Author: author, Created: time.Now().UTC()}
	err = s.config.Store.CreateUser(ctx, user)
	if errors.Is(err, store.ErrTaken) {
		err = emailTaken
	}
	return user, err
}

// readAuthor reads the profile of who signs up, under the email as the store keeps it.
func readAuthor(f fields) (a store.Author, err error) {
	if a.ID, err = readEmail(f); err != nil {
		return a, err
	}
	if a.Nombre, err = f.text("nombre", 1, longestName); err != nil {
		return a, err
	}
	if a.Apellido, err = f.text("apellido", 1, longestName); err != nil {
		return a, err
	}
	age, err := f.number("edad", 1, oldest)
	if err != nil {
		return a, err
	}
	a.Edad = int(age)
	if age != float64(a.Edad) {
		return a, invalid("edad", "error.whole", "edad")
	}
	if a.Alias, err = f.text("alias", 1, longestAlias); err != nil {
		return a, err
	}
	if f["avatar"] != nil && f["avatar"] != "" {
		a.Avatar, err = f.picture("avatar")
	}
	return a, err
}

func readEmail(f fields) (string, error) {
	text, err := f.text("email", 1, longestEmail)
	if err != nil {
		return "", err
	}
	address, err := mail.ParseAddress(text)
	if err != nil || address.Address != text || strings.ContainsAny(text, " \"<>()") {
		return "", invalid("email", "error.email")
	}
	return store.NormalEmail(text), nil
}

// welcome opens a session for a user who has just proved to be one.
func (s *Site) welcome(c *fiber.Ctx, email string, status int) error {
	ctx, cancel := s.asking()
	defer cancel()
	if err := s.open(ctx, c, email); err != nil {
		return err
	}
	if speaksJSON(c) {
		return c.Status(status).JSON(account{email})
	}
	return c.Redirect("/", fiber.StatusSeeOther)
}

// logout ends the session and says goodbye.
func (s *Site) logout(c *fiber.Ctx, session store.Session) error {
	ctx, cancel := s.asking()
	defer cancel()
	if err := s.close(ctx, session.ID); err != nil {
		return err
	}
	setCookie(c, "")
	if speaksJSON(c) {
		return c.JSON(account{session.Email})
	}
	return s.show(c, "logout", Page{Email: session.Email})
}

// again shows a form with what was wrong, and with what was typed but for the password.
func (s *Site) again(c *fiber.Ctx, page string, typed fields, err error) error {
	f, ok := errors.AsType[*failure](err)
	if !ok || f.field == "" || speaksJSON(c) {
		return err
	}
	values := make(map[string]string)
	for name, value := range typed {
		if text, ok := value.(string); ok && name != "password" {
			values[name] = text
		}
	}
	c.Status(f.status)
	return s.show(c, page, Page{Error: s.texts[lang(c)].say(f.text, f.args...), Field: f.field, Data: values})
}

// speaksJSON tells whether a client that posts to a page wants JSON back: it says so, or posts JSON itself.
func speaksJSON(c *fiber.Ctx) bool {
	return wantsJSON(c, strings.HasPrefix(c.Get(fiber.HeaderContentType), fiber.MIMEApplicationJSON))
}
