// Package storetest is the contract of store.Store as a test suite. Every implementation runs all of it.
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

// Place makes an empty place to keep things in, for one test, and returns what opens it: each call gives another holder,
// as another process would be. Holders are closed by whoever made the place, when the test ends.
type Place func(t *testing.T) (open func() store.Store)

// Run runs the whole suite.
func Run(t *testing.T, place Place) {
	tests := []struct {
		name string
		test func(t *testing.T, open func() store.Store)
	}{
		{"users", testUsers},
		{"two sign up at once", testUsersAtOnce},
		{"sessions", testSessions},
		{"products", testProducts},
		{"counters", testCounters},
		{"counters at once", testCountersAtOnce},
		{"sweep", testSweep},
		{"any text comes back as it was", testTexts},
		{"invalid values are refused", testInvalid},
		{"a call honours its context", testContext},
		{"append", testAppend},
		{"append stops where it must", testAppendStops},
		{"after", testAfter},
		{"last", testLast},
		{"eight append at once", testAppendAtOnce},
		{"eight logs", testLogs},
		{"a log through failures", testLogThroughFailures},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) { test.test(t, place(t)) })
	}
}

var (
	ctx = context.Background()
	now = time.Date(2026, 11, 22, 10, 30, 0, int(123*time.Millisecond), time.UTC)
	ana = store.Author{
		ID: "ana@example.org", Nombre: "Ana", Apellido: "Ñandú", Edad: 33, Alias: "anita", Avatar: "https://example.org/a.png",
	}
)

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func wantError(t *testing.T, what string, got, want error) {
	t.Helper()
	if !errors.Is(got, want) {
		t.Errorf("%s: error %v, want %v", what, got, want)
	}
}

func wantEqual(t *testing.T, what string, got, want any) {
	t.Helper()
	if !reflect.DeepEqual(got, want) {
		t.Errorf("%s:\n got %+v\nwant %+v", what, got, want)
	}
}

// atOnce runs f(0) … f(n-1) at the same time and returns their errors.
func atOnce(n int, f func(i int) error) []error {
	errs := make([]error, n)
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

// calls returns every call of a store that takes a text, given this text.
func calls(s store.Store, text string) map[string]func(context.Context) error {
	said := store.Entry{
		Kind: store.MessageSaid, Author: ana.ID, ClientID: "1", Message: &store.Message{Author: ana, Text: text, Time: now},
	}
	return map[string]func(context.Context) error{
		"CreateUser": func(ctx context.Context) error {
			return s.CreateUser(ctx, store.User{Email: "a@b", Author: store.Author{Alias: text}, Created: now})
		},
		"User":          func(ctx context.Context) error { _, err := s.User(ctx, text); return err },
		"CreateSession": func(ctx context.Context) error { return s.CreateSession(ctx, store.Session{ID: text}) },
		"Session":       func(ctx context.Context) error { _, err := s.Session(ctx, text, now); return err },
		"LiveSessions":  func(ctx context.Context) error { _, err := s.LiveSessions(ctx, []string{"s", text}, now); return err },
		"TouchSession":  func(ctx context.Context) error { return s.TouchSession(ctx, text, now) },
		"DeleteSession": func(ctx context.Context) error { return s.DeleteSession(ctx, text) },
		"Product":       func(ctx context.Context) error { _, err := s.Product(ctx, text); return err },
		"PutProduct":    func(ctx context.Context) error { return s.PutProduct(ctx, store.Product{ID: "1", Nombre: text}) },
		"UpdateProduct": func(ctx context.Context) error { return s.UpdateProduct(ctx, store.Product{ID: "1", Foto: text}) },
		"DeleteProduct": func(ctx context.Context) error { return s.DeleteProduct(ctx, text) },
		"Count":         func(ctx context.Context) error { _, err := s.Count(ctx, text, 1, now); return err },
		"Count of 0":    func(ctx context.Context) error { _, err := s.Count(ctx, text, 0, now); return err },
		"Append":        func(ctx context.Context) error { _, err := s.Append(ctx, 0, []store.Entry{said}); return err },
		"Said":          func(ctx context.Context) error { _, err := s.Said(ctx, text, "1"); return err },
	}
}

// Outage makes every call and fails the test unless each ends with ErrUnavailable. For a store that does not answer.
func Outage(t *testing.T, s store.Store) {
	t.Helper()
	all := calls(s, "text")
	all["Products"] = func(ctx context.Context) error { _, err := s.Products(ctx); return err }
	all["After"] = func(ctx context.Context) error { _, err := s.After(ctx, 0, 10); return err }
	all["Last"] = func(ctx context.Context) error { _, err := s.Last(ctx); return err }
	all["Sweep"] = func(ctx context.Context) error { _, err := s.Sweep(ctx, now); return err }
	all["Ping"] = s.Ping
	var names []string
	for name := range all {
		names = append(names, name)
	}
	for i, err := range atOnce(len(names), func(i int) error { return all[names[i]](ctx) }) {
		wantError(t, names[i]+" of a store that does not answer", err, store.ErrUnavailable)
	}
}

func testInvalid(t *testing.T, open func() store.Store) {
	s := open()
	for _, text := range []string{"a\x00b", "\xff", "caf\xc3"} {
		for name, call := range calls(s, text) {
			wantError(t, fmt.Sprintf("%s with %q", name, text), call(ctx), store.ErrInvalid)
		}
	}
	for _, price := range []float64{math.NaN(), math.Inf(1), math.Inf(-1)} {
		wantError(t, fmt.Sprint("price ", price), s.PutProduct(ctx, store.Product{ID: "1", Precio: price}), store.ErrInvalid)
	}
	for _, e := range []store.Entry{
		{Kind: store.MessageSaid, ClientID: "1"},
		{Kind: store.LoggedOut, ClientID: "1", Message: &store.Message{}},
	} {
		_, err := s.Append(ctx, 0, []store.Entry{e})
		wantError(t, fmt.Sprintf("append %+v", e), err, store.ErrInvalid)
	}
	last, err := s.Last(ctx)
	must(t, err)
	products, err := s.Products(ctx)
	must(t, err)
	if last != 0 || len(products) != 0 {
		t.Errorf("after refused calls: %d entries, products %v", last, products)
	}
}

func testContext(t *testing.T, open func() store.Store) {
	s := open()
	must(t, s.Ping(ctx))
	ended, cancel := context.WithCancel(ctx)
	cancel()
	for name, call := range calls(s, "text") {
		wantError(t, name+" with an ended context", call(ended), store.ErrUnavailable)
	}
	wantError(t, "Ping with an ended context", s.Ping(ended), store.ErrUnavailable)
	must(t, s.Ping(ctx))
}

func testTexts(t *testing.T, open func() store.Store) {
	s := open()
	for _, text := range []string{
		"", " ", "$ne", `{"$gt":""}`, "a.b", "_id", "'; DROP TABLE users; --", "<script>", "Ñandú 😀 \u202e", "%_", "\r\n", "null", "1",
	} {
		user := store.User{
			Email: text, PasswordHash: []byte{0, 255}, Created: now,
			Author: store.Author{ID: text, Nombre: text, Apellido: text, Alias: text, Avatar: text},
		}
		_, err := s.User(ctx, text)
		wantError(t, fmt.Sprintf("user %q, not there", text), err, store.ErrNotFound)
		must(t, s.CreateUser(ctx, user))
		gotUser, err := s.User(ctx, text)
		must(t, err)
		wantEqual(t, "user", gotUser, user)

		session := store.Session{ID: text, Email: text, Expires: now}
		must(t, s.CreateSession(ctx, session))
		gotSession, err := s.Session(ctx, text, now.Add(-1))
		must(t, err)
		wantEqual(t, "session", gotSession, session)

		product := store.Product{ID: text, Nombre: text, Foto: text}
		must(t, s.PutProduct(ctx, product))
		gotProduct, err := s.Product(ctx, text)
		must(t, err)
		wantEqual(t, "product", gotProduct, product)

		last, err := s.Last(ctx)
		must(t, err)
		entry := store.Entry{
			N: last + 1, Kind: store.MessageSaid, Subject: text, Author: text, ClientID: text,
			Message: &store.Message{Author: user.Author, Text: text, Time: now},
		}
		n, err := s.Append(ctx, last, []store.Entry{entry})
		must(t, err)
		wantEqual(t, "appended", n, 1)
		gotEntry, err := s.Said(ctx, text, text)
		must(t, err)
		wantEqual(t, "entry", gotEntry, entry)
	}
}
