// Package store holds the words that Balanza keeps (User, Session, Product, Entry), the errors they can meet, and the
// contract of the place they are kept in. One suite, storetest, proves the contract on every implementation.
package store

import (
	"context"
	"errors"
	"time"
)

var (
	// ErrNotFound: no such user, session or product; an expired session is not found.
	ErrNotFound = errors.New("not found")
	// ErrTaken: a user of that email, or a session of that id, exists already.
	ErrTaken = errors.New("already taken")
	// ErrUnavailable: the store did not answer in time or cannot be reached. What was asked may or may not be done.
	// Implementations wrap their driver's errors in it.
	ErrUnavailable = errors.New("store unavailable")
	// ErrInvalid: a string that is not UTF-8 or holds a NUL, a price that is no number, or an entry whose message does
	// not fit its kind. Nothing was done.
	ErrInvalid = errors.New("invalid value")
)

// Patience is the longest that a call of a Store takes, so that a page can still say in time that it cannot be served.
const Patience = 2 * time.Second

// User is an account and the profile that its chat messages carry.
type User struct {
	Email        string // as NormalEmail gives it; unique
	PasswordHash []byte // bcrypt
	Author       Author
	Created      time.Time // UTC, kept in whole milliseconds
}

// Author is what the chat shows of a user. Its JSON is the authors' entity of the normalised chat.
type Author struct {
	ID       string `json:"id"` // the email
	Nombre   string `json:"nombre"`
	Apellido string `json:"apellido"`
	Edad     int    `json:"edad"` // years
	Alias    string `json:"alias"`
	Avatar   string `json:"avatar"` // URL, may be empty
}

// Session is a logged-in browser.
type Session struct {
	ID      string // opaque, as the cookie has it
	Email   string
	Expires time.Time // UTC, kept in whole milliseconds
}

// Product is a row of the shop. Its JSON is the REST interface's.
type Product struct {
	ID     string  `json:"id"`
	Nombre string  `json:"nombre"`
	Precio float64 `json:"precio"`
	Foto   string  `json:"foto"` // URL
}

// Kind says what an Entry tells.
type Kind string

const (
	MessageSaid    Kind = "message" // Entry.Message is set
	ProductChanged Kind = "product" // Entry.Subject is the product's id: written or deleted, ask the store
	LoggedOut      Kind = "logout"  // Entry.Subject is the session's id
)

// Entry is one line of the log that every process follows: numbered 1, 2, 3 … without a gap.
type Entry struct {
	N       int64 // 0 until it is stored
	Kind    Kind
	Subject string   // for ProductChanged and LoggedOut
	Message *Message // for MessageSaid
	// Author and ClientID are unique together. For a message they are its author's email and the id the page gave it;
	// for any other kind Author is empty and ClientID is random.
	Author   string
	ClientID string
}

// Message is what somebody said. It is kept with the author as the author was when it was said.
type Message struct {
	Author Author
	Text   string
	Time   time.Time // UTC, kept in whole milliseconds
}

// Store is the contract. All calls are safe for concurrent use and by several processes on one store; each honours its
// context and ends within Patience in any case. Any call may fail with ErrUnavailable, and any with ErrInvalid when it is
// given what the Check functions refuse.
type Store interface {
	// CreateUser fails with ErrTaken when the email is there; of two at once, one fails.
	CreateUser(ctx context.Context, u User) error
	// User fails with ErrNotFound.
	User(ctx context.Context, email string) (User, error)

	// CreateSession fails with ErrTaken when the id is there.
	CreateSession(ctx context.Context, s Session) error
	// Session fails with ErrNotFound when there is none or when it expired at or before now.
	Session(ctx context.Context, id string, now time.Time) (Session, error)
	// LiveSessions returns those of the ids that Session would find, in any order.
	LiveSessions(ctx context.Context, ids []string, now time.Time) ([]string, error)
	// TouchSession moves the end of a session that is there; one that is gone stays gone, and that is no error.
	TouchSession(ctx context.Context, id string, expires time.Time) error
	// DeleteSession: deleting what is not there is no error.
	DeleteSession(ctx context.Context, id string) error

	// Products come in the order of their ids.
	Products(ctx context.Context) ([]Product, error)
	// Product fails with ErrNotFound.
	Product(ctx context.Context, id string) (Product, error)
	// PutProduct writes a product, new or not.
	PutProduct(ctx context.Context, p Product) error
	// UpdateProduct fails with ErrNotFound when there is none of that id.
	UpdateProduct(ctx context.Context, p Product) error
	// DeleteProduct fails with ErrNotFound when there is none of that id.
	DeleteProduct(ctx context.Context, id string) error

	// Count adds n to the counter of that key and returns its new value; a key starts at 0 and is forgotten some time
	// after expires (callers put the window into the key). n may be 0, to read it, or negative. Counters are for small
	// limits: each count may cost a record.
	Count(ctx context.Context, key string, n int, expires time.Time) (int, error)

	// Append writes entries as last+1, last+2 … where last is what the caller believes to be the log's last number. It
	// returns how many went in, in order: fewer than len(entries), with a nil error, when a number is taken (someone was
	// faster), an (Author, ClientID) is there already, or there is no entry last to follow on. The N of entries is not
	// looked at. After ErrUnavailable any first part of them may be in, now or a little later.
	Append(ctx context.Context, last int64, entries []Entry) (int, error)
	// After returns at most limit entries with numbers above n, in order and without a gap: none only when there is none, but
	// fewer than limit may be all that could be read in time.
	After(ctx context.Context, n int64, limit int) ([]Entry, error)
	// Last returns the highest number of the log, 0 when it is empty.
	Last(ctx context.Context) (int64, error)
	// Said returns the entry of that author and client id, or ErrNotFound.
	Said(ctx context.Context, author, clientID string) (Entry, error)

	// Sweep deletes sessions and counters that expired at or before now and returns how many records that were.
	Sweep(ctx context.Context, now time.Time) (int, error)
	// Ping fails with ErrUnavailable when the store does not answer.
	Ping(ctx context.Context) error
	Close() error
}
