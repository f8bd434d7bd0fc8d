// Package store defines the records that Balanza keeps (User, Session, Product, Entry, Process), the errors of reading and writing
// them, and the contract of the database behind them, the interface Store. One suite, storetest, proves the contract on
// every implementation.
package store

import (
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"slices"
	"time"
)

var (
	// ErrNotFound reports that no user, session, product or entry matches. An expired session is not found either.
	ErrNotFound = errors.New("not found")
	// ErrTaken reports that a user of that email, or a session or a product of that id, exists already.
	ErrTaken = errors.New("already taken")
	// ErrFull reports that an account has as many products as it may have.
	ErrFull = errors.New("too many")
	// ErrUnavailable reports that the store cannot be reached or did not answer in time. The operation may have taken
	// effect, now or a little later. Implementations wrap their driver's errors in it: see WrapError.
	ErrUnavailable = errors.New("store unavailable")
	// ErrInvalid reports a value that the store does not accept: a string that is not UTF-8 or contains a NUL, a price
	// that is not a number, or an entry whose message does not fit its kind. Nothing was written.
	ErrInvalid = errors.New("invalid value")
)

// CallTimeout is the longest time that a call of a Store takes. It leaves a web page enough time to answer that the
// service is unavailable.
const CallTimeout = 2 * time.Second

// DeleteBatch is the highest number of entries that one call deletes, so that it ends in time and delays no writer for long.
const DeleteBatch = 1000

// WrapError maps an error of a database driver to the errors of the contract: nil stays nil, noRecord, the driver's error
// for an empty result, becomes ErrNotFound, and every other error is wrapped in ErrUnavailable, since whatever else fails
// (connection, replica set without a primary, full disk) may work again at the next try. An error that has an ErrUnavailable
// in it stays as it is.
func WrapError(err, noRecord error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, noRecord):
		return ErrNotFound
	case errors.Is(err, ErrUnavailable):
		return err
	default:
		return fmt.Errorf("%w: %w", ErrUnavailable, err)
	}
}

// RefusedError is an ErrUnavailable for good: a wrong password, a missing permission, a certificate that is not trusted. The
// next try fails as this one did, until somebody changes the settings or the database.
type RefusedError struct {
	Reason string // in one line, without addresses, names and secrets, so that it can be shown to anybody
	Err    error  // of the driver
}

// Error returns the reason and the driver's error.
func (e *RefusedError) Error() string { return e.Reason + ": " + e.Err.Error() }

// Unwrap makes it an ErrUnavailable and the driver's error.
func (e *RefusedError) Unwrap() []error { return []error{ErrUnavailable, e.Err} }

// The names in BSON are those of stored documents, so they never change. Where there is no tag, it is the field's name in
// lower case.

// User is an account and the profile that its chat messages carry.
type User struct {
	Email        string `bson:"_id"`      // in the spelling of NormalEmail; unique
	PasswordHash []byte `bson:"password"` // bcrypt
	Author       Author
	Created      time.Time // UTC, stored in whole milliseconds
	// Generation is random and changes with the password. A session belongs to the generation in which it was started, so
	// that a new password, or a new user of the same email, ends all earlier sessions at once, also one that a log-in with
	// the old password starts at that moment. It is empty for users of an earlier version.
	Generation string
	// Devices are the hashes (HashToken) of the cookies of browsers that have logged in, the latest last.
	Devices []string
}

// Author is the part of a user that the chat shows. Its JSON is the "authors" entity of the normalised chat.
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
	ID         string `bson:"_id"` // HashToken of the cookie's value, which is not stored
	Email      string
	Generation string    // of the user, when the session was started
	Created    time.Time // UTC, stored in whole milliseconds: the time of the log-in
	Expires    time.Time // UTC, stored in whole milliseconds
	Agent      string    // the browser, as it calls itself
	Address    string    // of the client that logged in
}

// Product is an article of the shop. Its JSON is that of the REST interface.
type Product struct {
	ID     string  `json:"id" bson:"_id"`
	Nombre string  `json:"nombre"`
	Precio float64 `json:"precio"`
	Foto   string  `json:"foto"` // URL
	// Owner is the email of the user who created the product, empty for products of an earlier version.
	Owner string `json:"-"`
}

// Kind is the type of the event that an Entry records. Its values are stored, so they never change.
type Kind string

const (
	// MessagePosted records a chat message: Entry.Message is set.
	MessagePosted Kind = "message"
	// ProductChanged records that the product whose id is Entry.Subject was written or deleted. The entry does not
	// contain the product: a reader of the log asks the store for it.
	ProductChanged Kind = "product"
	// LoggedOut records that the session whose id is Entry.Subject was ended.
	LoggedOut Kind = "logout"
	// Filler records nothing. It occupies a number that was given to an entry which was never written.
	Filler Kind = "filler"
)

// Entry is one event of the log that every process follows. Entries are numbered 1, 2, 3 …; a gap is temporary (see Append),
// or left by a deletion.
type Entry struct {
	N       int64 `bson:"_id"` // 0 until the entry is stored
	Kind    Kind
	Subject string   // for ProductChanged and LoggedOut
	Message *Message `bson:"message,omitempty"` // for MessagePosted
	// Author and ClientID are unique together, so that a repeated request stores nothing twice. For a message they are
	// its author's email and the id that the page chose; for any other kind Author is empty and ClientID is a NewEventID.
	Author   string
	ClientID string `bson:"clientId"`
}

// Message is a chat message. It contains a copy of its author's profile at the time of posting.
type Message struct {
	Author Author
	Text   string
	Time   time.Time // UTC, stored in whole milliseconds
}

// EntryID is the part of an entry that is unique in the log and known before the entry has a number.
type EntryID struct{ Author, ClientID string }

// ID returns the entry's Author and ClientID.
func (e Entry) ID() EntryID { return EntryID{e.Author, e.ClientID} }

// Above returns the part of entries, which are in the order of their numbers, with numbers greater than n.
func Above(entries []Entry, n int64) []Entry {
	i, _ := slices.BinarySearchFunc(entries, n+1, func(e Entry, n int64) int { return cmp.Compare(e.N, n) })
	return entries[i:]
}

// NewEventID returns a ClientID for an entry that is not a message. It sorts by time, like a UUID of version 7, so that the
// index of client ids also finds old events.
func NewEventID(now time.Time) string { return eventIDPrefix(now) + rand.Text() }

// eventIDPrefix is the part of a NewEventID that depends on the time: milliseconds since 1970 as 12 hexadecimal digits.
func eventIDPrefix(at time.Time) string { return fmt.Sprintf("%012x-", at.UnixMilli()) }

// Process is the record that a running process keeps of itself in the store. Fields that an earlier version does not write
// are zero in its records. Times are UTC, stored in whole milliseconds.
type Process struct {
	ID      string `bson:"_id"` // random, a new one at each start
	Service string // what the servers that share a task are called, such as "replica"
	Server  string // as in the header X-Balanza-Server
	Mode    string // FORK or CLUSTER
	Host    string
	Machine string // the same for all containers of a machine
	Worker  int    // of a CLUSTER, from 1; 0: the server is one process
	PID     int
	Version string

	State    ProcessState
	Cause    string        // why it drains or has ended; empty before
	Started  time.Time     // of the process
	Seen     time.Time     // of this record
	Interval time.Duration // the next record is written by then
	Expires  time.Time     // without a further record the process counts as ended from then on

	Restarts    int // of this worker before this process
	Predecessor Predecessor

	Requests    int64         // answered since the start, without health checks
	Errors      int64         // those with a status of 500 or more
	Rate        float64       // requests a second since the record before
	P50, P99    time.Duration // of the requests of the last 10 s; 0: there were none
	Draws       int           // requests for random numbers that are being answered
	Connections int           // open, websockets not among them
	Websockets  int           // open
	Panels      int           // of the websockets: open panels
	Memory      int64         // private bytes; 0 where the system does not tell
	CPU         float64       // percent of one processor, since the record before
	History     []byte        // of the last minutes, as package processes encodes it
}

// Predecessor is the process that a worker replaces because it died. The zero value is none.
type Predecessor struct {
	PID   int    `json:"pid"`
	Cause string `json:"cause"`
}

// ProcessState is what a process says of itself. Its values are stored, so they never change.
type ProcessState string

const (
	Online   ProcessState = "online"   // it accepts requests
	Draining ProcessState = "draining" // it finishes those that it has
	Ended    ProcessState = "ended"    // this is its last record
)

// EndedKept is how long the record of a process is kept after it has expired.
const EndedKept = 10 * time.Minute

// Store is the contract of a database. All calls are safe for concurrent use, also by several processes on one database;
// each honours its context, and ends within CallTimeout when that has no deadline. Any call may fail with ErrUnavailable,
// and any call with ErrInvalid when an argument does not pass the Check functions of this package.
type Store interface {
	// CreateUser fails with ErrTaken when the email exists; of two concurrent calls for one email, one fails.
	CreateUser(ctx context.Context, u User) error
	// User fails with ErrNotFound.
	User(ctx context.Context, email string) (User, error)
	// SetPassword sets a user's PasswordHash, Generation and Devices, and SetDevices only the Devices. Both fail with
	// ErrNotFound.
	SetPassword(ctx context.Context, email string, hash []byte, generation string, devices []string) error
	SetDevices(ctx context.Context, email string, devices []string) error
	// DeleteUser deletes a user and the user's sessions, and returns the ids of the sessions. A missing user is no error.
	// Products and messages stay.
	DeleteUser(ctx context.Context, email string) (sessions []string, err error)

	// CreateSession fails with ErrTaken when the id exists.
	CreateSession(ctx context.Context, s Session) error
	// Session fails with ErrNotFound when no session has that id, when the session expired at or before now, and when its
	// user does not exist or is of another generation.
	Session(ctx context.Context, id string, now time.Time) (Session, error)
	// SessionsOf returns the sessions of a user that Session would find, the latest log-in first, at most limit.
	SessionsOf(ctx context.Context, email string, now time.Time, limit int) ([]Session, error)
	// LiveSessions returns those of the ids that Session would find, in any order.
	LiveSessions(ctx context.Context, ids []string, now time.Time) ([]string, error)
	// TouchSession sets a session's expiry. It does not bring a deleted session back, and a missing one is no error.
	TouchSession(ctx context.Context, id string, expires time.Time) error
	// DeleteSession deletes a session. A missing one is no error.
	DeleteSession(ctx context.Context, id string) error
	// DeleteSessionsOf deletes all sessions of a user except that of one id, which may be empty, and returns their ids.
	DeleteSessionsOf(ctx context.Context, email, except string) ([]string, error)

	// Products returns at most limit products in the order of their ids, those with ids after that one. The first come
	// after the empty id.
	Products(ctx context.Context, after string, limit int) ([]Product, error)
	// Product fails with ErrNotFound.
	Product(ctx context.Context, id string) (Product, error)
	// CreateProduct fails with ErrFull when the owner has most products, and with ErrTaken when the id exists. Concurrent
	// calls never leave the owner with more than most; near it each of them may fail.
	CreateProduct(ctx context.Context, p Product, most int) error
	// UpdateProduct replaces a product except for its owner. It fails with ErrNotFound when no product has that id.
	UpdateProduct(ctx context.Context, p Product) error
	// DeleteProduct fails with ErrNotFound when no product has that id.
	DeleteProduct(ctx context.Context, id string) error

	// Count adds n to the counter of that key and returns its new value. A counter starts at 0 and is deleted some time
	// after expires, so callers put the period that they count in into the key. n may be negative, or 0 to read the
	// value, which writes nothing.
	Count(ctx context.Context, key string, n int, expires time.Time) (int, error)

	// Append stores entries in the log under the next numbers, in their order, and ignores their N. It returns them as the
	// log has them: a new entry with its number, and in place of one whose (Author, ClientID) is in the log the entry that is
	// stored. After ErrUnavailable any of the entries may be in the log, now or a little later, and the numbers that they
	// were given may stay without an entry.
	Append(ctx context.Context, entries []Entry) ([]Entry, error)
	// After returns at most limit entries with numbers above n, in order. It returns none only when there are none, but may
	// return fewer than limit when reading more would take too long. A number is missing while a process that was given it
	// has not written its entry yet.
	After(ctx context.Context, n int64, limit int) ([]Entry, error)
	// Fill stores a Filler under every number from first to last that has no entry. An Append that was given one of these
	// numbers and writes later takes a new one.
	Fill(ctx context.Context, first, last int64) error
	// Last returns the highest number that has an entry, 0 when the log is empty.
	Last(ctx context.Context) (int64, error)
	// DeleteEvents deletes entries that are not messages, have numbers up to n and are older than before; DeleteEntries
	// deletes the entries with the lowest numbers up to n. Both delete at most DeleteBatch and return how many.
	DeleteEvents(ctx context.Context, n int64, before time.Time) (int, error)
	DeleteEntries(ctx context.Context, n int64) (int, error)
	// PutProcess creates or replaces the record of a process.
	PutProcess(ctx context.Context, p Process) error
	// Processes returns the records that expire after since, in any order.
	Processes(ctx context.Context, since time.Time) ([]Process, error)
	// CountProcesses returns the number of records that expire after now, and how many panels these have open together.
	CountProcesses(ctx context.Context, now time.Time) (live, panels int, err error)
	// Now returns the time by the clock of the database's server.
	Now(ctx context.Context) (time.Time, error)
	// Sweep deletes the sessions, counters and holds that expired at or before now, and the processes that did so EndedKept
	// before, and returns how many it deleted.
	Sweep(ctx context.Context, now time.Time) (int, error)
	// Ping fails with ErrUnavailable when the database does not answer.
	Ping(ctx context.Context) error
	// Close ends all connections. No other call may follow it.
	Close() error

	// Hold records that a holder, a process, has so many of each key until expires, in place of what it had: of a number
	// that is 0 no record stays. It returns how many of each of these keys all holders together have whose records expire
	// after now. A process that ends without a further call thus keeps what it has until expires.
	Hold(ctx context.Context, holder string, counts map[string]int, now, expires time.Time) (totals map[string]int, err error)
}
