package storetest

import (
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	"balanza/services/store"
)

// testUsers proves that one process finds the user of another, and that a second sign-up changes nothing.
func testUsers(t *testing.T, open func() store.Store) {
	a, b := open(), open()
	_, err := a.User(ctx, ana.ID)
	wantError(t, "no user", err, store.ErrNotFound)
	user := store.User{Email: ana.ID, PasswordHash: []byte("$2a$12$hash"), Author: ana, Created: now}
	must(t, a.CreateUser(ctx, user))
	got, err := b.User(ctx, ana.ID)
	must(t, err)
	wantEqual(t, "user read by another process", got, user)
	// The email is taken whatever the rest of the record is, and the first record stays.
	other := user
	other.PasswordHash = []byte("another")
	wantError(t, "same email", b.CreateUser(ctx, other), store.ErrTaken)
	got, err = a.User(ctx, ana.ID)
	must(t, err)
	wantEqual(t, "user after a second sign-up", got, user)
}

// testConcurrentUsers proves that one of eight processes creates the user and the others get ErrTaken.
func testConcurrentUsers(t *testing.T, open func() store.Store) {
	stores := make([]store.Store, 8)
	for i := range stores {
		stores[i] = open()
	}
	created := 0
	// The eight records are equal, and yet seven calls must fail: each stands for a sign-up of somebody else.
	for _, err := range concurrently(len(stores), func(i int) error {
		return stores[i].CreateUser(ctx, store.User{Email: ana.ID, Author: ana, Created: now})
	}) {
		if err == nil {
			created++
		} else {
			wantError(t, "concurrent sign-up", err, store.ErrTaken)
		}
	}
	wantEqual(t, "users created", created, 1)
}

// testSessions proves that a session ends exactly at its expiry, that both ways to look it up agree, and that a deleted
// session stays deleted.
func testSessions(t *testing.T, open func() store.Store) {
	a, b := open(), open()
	_, err := a.Session(ctx, "s", now)
	wantError(t, "no session", err, store.ErrNotFound)
	session := store.Session{ID: "s", Email: ana.ID, Expires: now.Add(10 * time.Minute)}
	must(t, a.CreateSession(ctx, session))
	wantError(t, "same id", b.CreateSession(ctx, store.Session{ID: "s", Email: "eve", Expires: session.Expires}), store.ErrTaken)
	got, err := b.Session(ctx, "s", now)
	must(t, err)
	wantEqual(t, "session read by another process", got, session)

	long := session.Expires.Add(time.Hour)
	must(t, b.CreateSession(ctx, store.Session{ID: "long", Email: "eve", Expires: long}))
	// The list of ids has one that does not exist and one with a quotation mark.
	wantLive := func(description string, at time.Time, want ...string) {
		t.Helper()
		got, err := a.LiveSessions(ctx, []string{"s", "long", "none", "s'"}, at)
		must(t, err)
		slices.Sort(got) // the contract gives no order
		wantEqual(t, description, got, want)
	}
	before := session.Expires.Add(-time.Millisecond)
	_, err = b.Session(ctx, "s", before)
	must(t, err)
	wantLive("1 ms before the expiry", before, "long", "s")
	_, err = b.Session(ctx, "s", session.Expires)
	wantError(t, "at the expiry", err, store.ErrNotFound)
	wantLive("at the expiry", session.Expires, "long")
	// An empty list of ids is no error.
	none, err := a.LiveSessions(ctx, nil, now)
	must(t, err)
	wantEqual(t, "of no sessions", len(none), 0)
	// The session is found again at the time at which it had expired.
	later := session.Expires.Add(time.Minute)
	must(t, b.TouchSession(ctx, "s", later))
	got, err = a.Session(ctx, "s", session.Expires)
	must(t, err)
	wantEqual(t, "expiry after touch", got.Expires, later)

	// A page may touch the session that another process has just deleted: a log-out must win.
	must(t, b.DeleteSession(ctx, "s"))
	_, err = a.Session(ctx, "s", now)
	wantError(t, "deleted", err, store.ErrNotFound)
	wantLive("deleted", now, "long")
	must(t, b.DeleteSession(ctx, "s")) // deleting it twice is no error
	must(t, a.TouchSession(ctx, "s", later))
	_, err = a.Session(ctx, "s", now)
	wantError(t, "deleted, then touched", err, store.ErrNotFound)
}

// testProducts proves which writes need an existing product, and that the list is in the order of the ids.
func testProducts(t *testing.T, open func() store.Store) {
	a, b := open(), open()
	products, err := a.Products(ctx)
	must(t, err)
	wantEqual(t, "no products", products, []store.Product{})
	// Both prices show whether a store keeps float64 to the last bit. The ids are not in the order of creation.
	regla := store.Product{ID: "b", Nombre: "Regla", Precio: 0.1 + 0.2, Foto: "https://example.org/r.png"}
	lapiz := store.Product{ID: "a", Nombre: "Lápiz", Precio: 1e15, Foto: "https://example.org/l.png"}
	wantError(t, "update nothing", a.UpdateProduct(ctx, regla), store.ErrNotFound)
	wantError(t, "delete nothing", a.DeleteProduct(ctx, "b"), store.ErrNotFound)
	must(t, a.PutProduct(ctx, regla))
	must(t, b.PutProduct(ctx, lapiz))
	products, err = b.Products(ctx)
	must(t, err)
	wantEqual(t, "products, by id", products, []store.Product{lapiz, regla})

	regla.Precio = 350
	must(t, b.UpdateProduct(ctx, regla))
	must(t, b.UpdateProduct(ctx, regla)) // an update that changes nothing finds its product too
	got, err := a.Product(ctx, "b")
	must(t, err)
	wantEqual(t, "updated", got, regla)
	regla.Nombre = "Regla larga"
	must(t, a.PutProduct(ctx, regla))
	got, err = b.Product(ctx, "b")
	must(t, err)
	wantEqual(t, "replaced", got, regla)

	must(t, a.DeleteProduct(ctx, "b"))
	_, err = b.Product(ctx, "b")
	wantError(t, "deleted", err, store.ErrNotFound)
	wantError(t, "delete twice", b.DeleteProduct(ctx, "b"), store.ErrNotFound)
	products, err = a.Products(ctx)
	must(t, err)
	wantEqual(t, "the rest", products, []store.Product{lapiz})
}

// testCounters proves that counters add across processes and that keys do not mix. A store that puts key and number into one
// id could take the key "k 1" for a unit of the key "k".
func testCounters(t *testing.T, open func() store.Store) {
	a, b := open(), open()
	expires := now.Add(time.Hour)
	// Adding 0 reads the value and creates no counter.
	for _, step := range []struct {
		s         store.Store
		key       string
		add, want int
	}{
		{a, "k", 0, 0}, {a, "k", 1, 1}, {b, "k", 2, 3}, {a, "k", 0, 3}, {b, "other", 1, 1}, {a, "k", 1, 4},
		{b, "k", -2, 2}, {a, "k", 1, 3}, {a, "k", -1, 2}, {b, "k", 0, 2}, {a, "k 1", 0, 0}, {a, "k", 20, 22},
	} {
		got, err := step.s.Count(ctx, step.key, step.add, expires)
		must(t, err)
		wantEqual(t, fmt.Sprintf("%s + %d", step.key, step.add), got, step.want)
	}
}

// testConcurrentCounters proves that no count is lost when eight processes add and subtract at the same time.
func testConcurrentCounters(t *testing.T, open func() store.Store) {
	stores := make([]store.Store, 8)
	for i := range stores {
		stores[i] = open()
	}
	const each = 5 // additions of 2 and subtractions of 1 by each process
	expires := now.Add(time.Hour)
	must(t, errors.Join(concurrently(len(stores), func(i int) error {
		for range each {
			if _, err := stores[i].Count(ctx, "k", 2, expires); err != nil {
				return err
			}
			if _, err := stores[i].Count(ctx, "k", -1, expires); err != nil {
				return err
			}
		}
		return nil
	})...))
	got, err := stores[0].Count(ctx, "k", 0, expires)
	must(t, err)
	wantEqual(t, "sum", got, each*len(stores))
}

// testSweep proves that a sweep deletes what expired at or before now, and nothing else.
func testSweep(t *testing.T, open func() store.Store) {
	s := open()
	for id, expires := range map[string]time.Time{"old": now.Add(-time.Hour), "at": now, "new": now.Add(time.Hour)} {
		must(t, s.CreateSession(ctx, store.Session{ID: id, Email: ana.ID, Expires: expires}))
		_, err := s.Count(ctx, id, 1, expires)
		must(t, err)
	}
	// Two sessions and two counters expired. A second sweep finds nothing.
	for _, want := range []int{4, 0} {
		got, err := s.Sweep(ctx, now)
		must(t, err)
		wantEqual(t, "swept", got, want)
	}
	_, err := s.Session(ctx, "new", now)
	must(t, err)
	// At that time the session had not expired, so only the sweep can have removed it.
	_, err = s.Session(ctx, "old", now.Add(-2*time.Hour))
	wantError(t, "a swept session", err, store.ErrNotFound)
	for id, want := range map[string]int{"old": 0, "at": 0, "new": 1} {
		got, err := s.Count(ctx, id, 0, now)
		must(t, err)
		wantEqual(t, "counter "+id, got, want)
	}
}
