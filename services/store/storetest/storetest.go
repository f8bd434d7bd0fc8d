// Package storetest proves the contract of store.Store: one test suite, which every implementation runs as a whole, and
// helpers for tests that kill or pause a store's server or processes.
package storetest

import (
	"context"
	"errors"
	"fmt"
	"math"
	"reflect"
	"testing"
	"time"

	"balanza/services/store"
)

// OpenFunc is the function Open of an implementation. The source is a file's path or a database's URI.
type OpenFunc func(ctx context.Context, source string) (store.Store, error)

// Open opens a store and closes it when the test ends. It fails the test when either returns an error.
func Open(t *testing.T, open OpenFunc, source string) store.Store {
	t.Helper()
	s, err := open(context.Background(), source)
	must(t, err)
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

// Run runs the whole suite. It calls newSource once for each test, for the source of an empty store. Most tests open that
// source several times: each store then stands for one process.
func Run(t *testing.T, open OpenFunc, newSource func(t *testing.T) string) {
	tests := []struct {
		name string
		test func(t *testing.T, open func() store.Store)
	}{
		// The records and counters.
		{"users", testUsers},
		{"concurrent sign-ups", testConcurrentUsers},
		{"passwords and devices", testPasswords},
		{"deleted users", testDeletedUsers},
		{"sessions", testSessions},
		{"sessions of a user", testSessionsOf},
		{"products", testProducts},
		{"pages of products", testPages},
		{"most products", testMostProducts},
		{"counters", testCounters},
		{"concurrent counters", testConcurrentCounters},
		{"sweep", testSweep},
		// The arguments of all calls.
		{"any text is stored unchanged", testTexts},
		{"invalid values", testInvalid},
		{"a call honours its context", testContext},
		{"clock", testNow},
		{"processes", testProcesses},
		{"invalid records of processes", testInvalidProcesses},
		{"holds", testHolds},
		{"concurrent holds", testConcurrentHolds},
		// The log: first the calls of the store, then Log on top of them.
		{"append", testAppend},
		{"repeats", testRepeats},
		{"after", testAfter},
		{"last", testLast},
		{"fill", testFill},
		{"delete", testDelete},
		{"prune", testPrune},
		{"concurrent appends", testConcurrentAppends},
		{"concurrent logs", testConcurrentLogs},
		{"a log through failures", testLogThroughFailures},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			source := newSource(t)
			test.test(t, func() store.Store { return Open(t, open, source) })
		})
	}
}

// The time has milliseconds, as finely as stores keep it, and the author has letters of more than one byte.
var (
	ctx = context.Background()
	now = time.Date(2026, 11, 22, 10, 30, 0, int(123*time.Millisecond), time.UTC)
	ana = store.Author{
		ID: "ana@example.org", Nombre: "Ana", Apellido: "Ñandú", Edad: 33, Alias: "anita", Avatar: "https://example.org/a.png",
	}
)

// must ends the test when err is not nil.
func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// wantError reports an error that does not wrap the wanted one. The description says which call returned it.
func wantError(t *testing.T, description string, got, want error) {
	t.Helper()
	if !errors.Is(got, want) {
		t.Errorf("%s: error %v, want %v", description, got, want)
	}
}

// wantEqual reports a value that is not deeply equal to the wanted one. The description says which value it is.
func wantEqual(t *testing.T, description string, got, want any) {
	t.Helper()
	if !reflect.DeepEqual(got, want) {
		t.Errorf("%s:\n got %+v\nwant %+v", description, got, want)
	}
}

// concurrently runs f(0) … f(n-1) at the same time and returns their n errors.
func concurrently(n int, f func(i int) error) []error {
	errs := make([]error, n) // each goroutine writes its own element, so they need no lock
	done := make(chan bool)
	for i := range n {
		go func() {
			errs[i] = f(i)
			done <- true
		}()
	}
	for range n {
		<-done
	}
	return errs
}

// callsWith returns every call of a store that has a text among its arguments, with this text, by the call's name.
func callsWith(s store.Store, text string) map[string]func(context.Context) error {
	posted := store.Entry{
		Kind: store.MessagePosted, Author: ana.ID, ClientID: "1", Message: &store.Message{Author: ana, Text: text, Time: now},
	}
	return map[string]func(context.Context) error{
		"CreateUser": func(ctx context.Context) error {
			return s.CreateUser(ctx, store.User{Email: "a@b", Author: store.Author{Alias: text}, Created: now})
		},
		"CreateUser with a device": func(ctx context.Context) error {
			return s.CreateUser(ctx, store.User{Email: "a@b", Devices: []string{text}, Created: now})
		},
		"User":        func(ctx context.Context) error { _, err := s.User(ctx, text); return err },
		"SetPassword": func(ctx context.Context) error { return s.SetPassword(ctx, ana.ID, nil, text, nil) },
		"SetDevices":  func(ctx context.Context) error { return s.SetDevices(ctx, ana.ID, []string{text}) },
		"DeleteUser":  func(ctx context.Context) error { _, err := s.DeleteUser(ctx, text); return err },
		"CreateSession": func(ctx context.Context) error {
			return s.CreateSession(ctx, store.Session{ID: "text", Email: ana.ID, Agent: text})
		},
		"SessionsOf":       func(ctx context.Context) error { _, err := s.SessionsOf(ctx, text, now, 10); return err },
		"DeleteSessionsOf": func(ctx context.Context) error { _, err := s.DeleteSessionsOf(ctx, ana.ID, text); return err },
		"Session":          func(ctx context.Context) error { _, err := s.Session(ctx, text, now); return err },
		"LiveSessions":     func(ctx context.Context) error { _, err := s.LiveSessions(ctx, []string{"s", text}, now); return err },
		"TouchSession":     func(ctx context.Context) error { return s.TouchSession(ctx, text, now) },
		"DeleteSession":    func(ctx context.Context) error { return s.DeleteSession(ctx, text) },
		"Product":          func(ctx context.Context) error { _, err := s.Product(ctx, text); return err },
		"Products":         func(ctx context.Context) error { _, err := s.Products(ctx, text, 10); return err },
		"CreateProduct": func(ctx context.Context) error {
			return s.CreateProduct(ctx, store.Product{ID: "1", Nombre: text}, 10)
		},
		"UpdateProduct": func(ctx context.Context) error { return s.UpdateProduct(ctx, store.Product{ID: "1", Foto: text}) },
		"DeleteProduct": func(ctx context.Context) error { return s.DeleteProduct(ctx, text) },
		"Count":         func(ctx context.Context) error { _, err := s.Count(ctx, text, 1, now); return err },
		"Count of 0":    func(ctx context.Context) error { _, err := s.Count(ctx, text, 0, now); return err },
		"Append":        func(ctx context.Context) error { _, err := s.Append(ctx, []store.Entry{posted}); return err },
		"PutProcess":    func(ctx context.Context) error { return s.PutProcess(ctx, store.Process{ID: "1", Host: text}) },
	}
}

// Outage makes every call of a store whose database does not answer, and fails the test unless each call ends with
// ErrUnavailable.
func Outage(t *testing.T, s store.Store) {
	t.Helper()
	all := callsWith(s, "text")
	// These have no text among their arguments.
	all["After"] = func(ctx context.Context) error { _, err := s.After(ctx, 0, 10); return err }
	all["Last"] = func(ctx context.Context) error { _, err := s.Last(ctx); return err }
	all["Fill"] = func(ctx context.Context) error { return s.Fill(ctx, 1, 2) }
	all["DeleteEvents"] = func(ctx context.Context) error { _, err := s.DeleteEvents(ctx, 1, now); return err }
	all["DeleteEntries"] = func(ctx context.Context) error { _, err := s.DeleteEntries(ctx, 1); return err }
	all["Processes"] = func(ctx context.Context) error { _, err := s.Processes(ctx, now); return err }
	all["CountProcesses"] = func(ctx context.Context) error { _, _, err := s.CountProcesses(ctx, now); return err }
	all["Now"] = func(ctx context.Context) error { _, err := s.Now(ctx); return err }
	all["Sweep"] = func(ctx context.Context) error { _, err := s.Sweep(ctx, now); return err }
	all["Ping"] = s.Ping
	// At the same time, since each call may take as long as store.CallTimeout.
	var names []string
	for name := range all {
		names = append(names, name)
	}
	for i, err := range concurrently(len(names), func(i int) error { return all[names[i]](ctx) }) {
		wantError(t, names[i]+" during an outage", err, store.ErrUnavailable)
	}
}

// EarlierVersion fails the test unless a store uses the records that an earlier version has written: a user, who can log in
// and change the password, a session of the user, whose cookie has the session's id as its value and finds nothing, and a
// product, which has no owner.
func EarlierVersion(t *testing.T, s store.Store, email, session, product string) {
	t.Helper()
	_, err := s.Session(ctx, store.HashToken(session), time.Now())
	wantError(t, "session of an earlier version", err, store.ErrNotFound)
	u, err := s.User(ctx, email)
	must(t, err)
	if string(u.PasswordHash) != "hash" || u.Generation != "" || len(u.Devices) != 0 || u.Author.Nombre != "Ana" {
		t.Errorf("user of an earlier version: %+v", u)
	}
	must(t, s.CreateSession(ctx, store.Session{ID: "new", Email: email, Expires: time.Now().Add(time.Minute)}))
	_, err = s.Session(ctx, "new", time.Now())
	must(t, err)
	must(t, s.SetPassword(ctx, email, []byte("another"), "g1", []string{"d"}))
	_, err = s.Session(ctx, "new", time.Now())
	wantError(t, "session of the first password", err, store.ErrNotFound)
	p, err := s.Product(ctx, product)
	must(t, err)
	wantEqual(t, "product of an earlier version", p, store.Product{ID: product, Nombre: "Regla", Precio: 1.5})
	p.Precio = 2
	must(t, s.UpdateProduct(ctx, p))
}

// testInvalid proves that invalid values fail and write nothing. NUL, a byte that never occurs in UTF-8 and a cut character
// are the texts about which databases disagree.
func testInvalid(t *testing.T, open func() store.Store) {
	s := open()
	for _, text := range []string{"a\x00b", "\xff", "caf\xc3"} {
		for name, call := range callsWith(s, text) {
			wantError(t, fmt.Sprintf("%s with %q", name, text), call(ctx), store.ErrInvalid)
		}
	}
	// JSON has no such numbers.
	for _, price := range []float64{math.NaN(), math.Inf(1), math.Inf(-1)} {
		wantError(t, fmt.Sprint("price ", price), s.CreateProduct(ctx, store.Product{ID: "1", Precio: price}, 10), store.ErrInvalid)
	}
	// A message entry without a message, and an entry of another kind with one.
	for _, e := range []store.Entry{
		{Kind: store.MessagePosted, ClientID: "1"},
		{Kind: store.LoggedOut, ClientID: "1", Message: &store.Message{}},
	} {
		_, err := s.Append(ctx, []store.Entry{e})
		wantError(t, fmt.Sprintf("append %+v", e), err, store.ErrInvalid)
	}
	last, err := s.Last(ctx)
	must(t, err)
	products, err := s.Products(ctx, "", 10)
	must(t, err)
	if last != 0 || len(products) != 0 {
		t.Errorf("after the invalid calls: %d entries, products %v", last, products)
	}
}

// testContext proves that each call honours its context, and that a cancelled call does not harm the connection.
func testContext(t *testing.T, open func() store.Store) {
	s := open()
	must(t, s.Ping(ctx))
	cancelled, cancel := context.WithCancel(ctx)
	cancel()
	for name, call := range callsWith(s, "text") {
		wantError(t, name+" with a cancelled context", call(cancelled), store.ErrUnavailable)
	}
	wantError(t, "Ping with a cancelled context", s.Ping(cancelled), store.ErrUnavailable)
	must(t, s.Ping(ctx))
}

// testTexts proves that texts with a meaning elsewhere (query operators, SQL, HTML, JSON, blanks, direction marks) are
// stored as they are, as keys and as values.
func testTexts(t *testing.T, open func() store.Store) {
	s := open()
	for _, text := range []string{
		"", " ", "$ne", `{"$gt":""}`, "a.b", "_id", "'; DROP TABLE users; --", "<script>", "Ñandú 😀 \u202e", "%_", "\r\n", "null", "1",
	} {
		user := store.User{
			Email: text, PasswordHash: []byte{0, 255}, Created: now, // a hash is bytes, not text
			Author:     store.Author{ID: text, Nombre: text, Apellido: text, Alias: text, Avatar: text},
			Generation: text, Devices: []string{text},
		}
		// The users of the texts before do not match this one, be it an operator, a pattern or a prefix.
		_, err := s.User(ctx, text)
		wantError(t, fmt.Sprintf("user %q before it exists", text), err, store.ErrNotFound)
		must(t, s.CreateUser(ctx, user))
		gotUser, err := s.User(ctx, text)
		must(t, err)
		wantEqual(t, "user", gotUser, user)

		session := store.Session{
			ID: text, Email: text, Generation: text, Created: now, Expires: now, Agent: text, Address: text,
		}
		must(t, s.CreateSession(ctx, session))
		gotSession, err := s.Session(ctx, text, now.Add(-1)) // 1 ns before its expiry
		must(t, err)
		wantEqual(t, "session", gotSession, session)

		product := store.Product{ID: text, Nombre: text, Foto: text, Owner: text}
		must(t, s.CreateProduct(ctx, product, 1))
		gotProduct, err := s.Product(ctx, text)
		must(t, err)
		wantEqual(t, "product", gotProduct, product)

		entry := store.Entry{
			Kind: store.MessagePosted, Subject: text, Author: text, ClientID: text,
			Message: &store.Message{Author: user.Author, Text: text, Time: now},
		}
		stored, err := s.Append(ctx, []store.Entry{entry})
		must(t, err)
		wantEqual(t, "read", read(t, s, stored[0].N-1, 1), stored)
		entry.N = stored[0].N
		wantEqual(t, "entry", stored[0], entry)
	}
}
