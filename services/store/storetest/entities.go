package storetest

import (
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	"balanza/services/store"
)

func testUsers(t *testing.T, open func() store.Store) {
	a, b := open(), open()
	_, err := a.User(ctx, ana.ID)
	wantError(t, "no user", err, store.ErrNotFound)
	user := store.User{Email: ana.ID, PasswordHash: []byte("$2a$12$hash"), Author: ana, Created: now}
	must(t, a.CreateUser(ctx, user))
	got, err := b.User(ctx, ana.ID)
	must(t, err)
	wantEqual(t, "user seen by another holder", got, user)
	other := user
	other.PasswordHash = []byte("another")
	wantError(t, "same email", b.CreateUser(ctx, other), store.ErrTaken)
	got, err = a.User(ctx, ana.ID)
	must(t, err)
	wantEqual(t, "user after a refused one", got, user)
}

func testUsersAtOnce(t *testing.T, open func() store.Store) {
	stores := make([]store.Store, 8)
	for i := range stores {
		stores[i] = open()
	}
	made := 0
	for _, err := range atOnce(len(stores), func(i int) error {
		return stores[i].CreateUser(ctx, store.User{Email: ana.ID, Author: ana, Created: now})
	}) {
		if err == nil {
			made++
		} else {
			wantError(t, "at once", err, store.ErrTaken)
		}
	}
	wantEqual(t, "users made", made, 1)
}

func testSessions(t *testing.T, open func() store.Store) {
	a, b := open(), open()
	_, err := a.Session(ctx, "s", now)
	wantError(t, "no session", err, store.ErrNotFound)
	session := store.Session{ID: "s", Email: ana.ID, Expires: now.Add(10 * time.Minute)}
	must(t, a.CreateSession(ctx, session))
	wantError(t, "same id", b.CreateSession(ctx, store.Session{ID: "s", Email: "eve", Expires: session.Expires}), store.ErrTaken)
	got, err := b.Session(ctx, "s", now)
	must(t, err)
	wantEqual(t, "session seen by another holder", got, session)

	long := session.Expires.Add(time.Hour)
	must(t, b.CreateSession(ctx, store.Session{ID: "long", Email: "eve", Expires: long}))
	live := func(what string, at time.Time, want ...string) {
		t.Helper()
		got, err := a.LiveSessions(ctx, []string{"s", "long", "none", "s'"}, at)
		must(t, err)
		slices.Sort(got)
		wantEqual(t, what, got, want)
	}
	moment := session.Expires.Add(-time.Millisecond)
	_, err = b.Session(ctx, "s", moment)
	must(t, err)
	live("a moment before its end", moment, "long", "s")
	_, err = b.Session(ctx, "s", session.Expires)
	wantError(t, "at its end", err, store.ErrNotFound)
	live("at its end", session.Expires, "long")
	none, err := a.LiveSessions(ctx, nil, now)
	must(t, err)
	wantEqual(t, "of no sessions", len(none), 0)
	later := session.Expires.Add(time.Minute)
	must(t, b.TouchSession(ctx, "s", later))
	got, err = a.Session(ctx, "s", session.Expires)
	must(t, err)
	wantEqual(t, "end after touch", got.Expires, later)

	must(t, b.DeleteSession(ctx, "s"))
	_, err = a.Session(ctx, "s", now)
	wantError(t, "deleted", err, store.ErrNotFound)
	live("deleted", now, "long")
	must(t, b.DeleteSession(ctx, "s"))
	must(t, a.TouchSession(ctx, "s", later))
	_, err = a.Session(ctx, "s", now)
	wantError(t, "deleted, then touched", err, store.ErrNotFound)
}

func testProducts(t *testing.T, open func() store.Store) {
	a, b := open(), open()
	products, err := a.Products(ctx)
	must(t, err)
	wantEqual(t, "no products", products, []store.Product{})
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
	must(t, b.UpdateProduct(ctx, regla)) // what changes nothing is there nevertheless
	got, err := a.Product(ctx, "b")
	must(t, err)
	wantEqual(t, "updated", got, regla)
	regla.Nombre = "Regla larga"
	must(t, a.PutProduct(ctx, regla))
	got, err = b.Product(ctx, "b")
	must(t, err)
	wantEqual(t, "put again", got, regla)

	must(t, a.DeleteProduct(ctx, "b"))
	_, err = b.Product(ctx, "b")
	wantError(t, "deleted", err, store.ErrNotFound)
	wantError(t, "delete twice", b.DeleteProduct(ctx, "b"), store.ErrNotFound)
	products, err = a.Products(ctx)
	must(t, err)
	wantEqual(t, "the rest", products, []store.Product{lapiz})
}

func testCounters(t *testing.T, open func() store.Store) {
	a, b := open(), open()
	end := now.Add(time.Hour)
	for _, step := range []struct {
		s         store.Store
		key       string
		add, want int
	}{
		{a, "k", 0, 0}, {a, "k", 1, 1}, {b, "k", 2, 3}, {a, "k", 0, 3}, {b, "other", 1, 1}, {a, "k", 1, 4},
		{b, "k", -2, 2}, {a, "k", 1, 3}, {a, "k", -1, 2}, {b, "k", 0, 2}, {a, "k 1", 0, 0}, {a, "k", 20, 22},
	} {
		got, err := step.s.Count(ctx, step.key, step.add, end)
		must(t, err)
		wantEqual(t, fmt.Sprintf("%s + %d", step.key, step.add), got, step.want)
	}
}

func testCountersAtOnce(t *testing.T, open func() store.Store) {
	stores := make([]store.Store, 8)
	for i := range stores {
		stores[i] = open()
	}
	const each = 5
	end := now.Add(time.Hour)
	must(t, errors.Join(atOnce(len(stores), func(i int) error {
		for range each {
			if _, err := stores[i].Count(ctx, "k", 2, end); err != nil {
				return err
			}
			if _, err := stores[i].Count(ctx, "k", -1, end); err != nil {
				return err
			}
		}
		return nil
	})...))
	got, err := stores[0].Count(ctx, "k", 0, end)
	must(t, err)
	wantEqual(t, "sum", got, each*len(stores))
}

func testSweep(t *testing.T, open func() store.Store) {
	s := open()
	for id, end := range map[string]time.Time{"old": now.Add(-time.Hour), "at": now, "new": now.Add(time.Hour)} {
		must(t, s.CreateSession(ctx, store.Session{ID: id, Email: ana.ID, Expires: end}))
		_, err := s.Count(ctx, id, 1, end)
		must(t, err)
	}
	for _, want := range []int{4, 0} {
		got, err := s.Sweep(ctx, now)
		must(t, err)
		wantEqual(t, "swept", got, want)
	}
	_, err := s.Session(ctx, "new", now)
	must(t, err)
	_, err = s.Session(ctx, "old", now.Add(-2*time.Hour))
	wantError(t, "a swept session", err, store.ErrNotFound)
	for id, want := range map[string]int{"old": 0, "at": 0, "new": 1} {
		got, err := s.Count(ctx, id, 0, now)
		must(t, err)
		wantEqual(t, "counter "+id, got, want)
	}
}
