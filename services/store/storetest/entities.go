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
	user := store.User{Email: ana.ID, PasswordHash: []byte("$2a$12$hash"), Author: ana, Created: now, Generation: "g1", Devices: []string{"d1", "d2"}}
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

// createUser creates a user of the generation "g1" with sessions of these ids, which begin one second after another and
// expire in ten minutes.
func createUser(t *testing.T, s store.Store, email string, sessions ...string) {
	t.Helper()
	must(t, s.CreateUser(ctx, store.User{Email: email, Author: ana, Created: now, Generation: "g1"}))
	for i, id := range sessions {
		must(t, s.CreateSession(ctx, sessionOf(email, id, i)))
	}
}

// sessionOf returns the session that createUser creates with its argument i.
func sessionOf(email, id string, i int) store.Session {
	created := now.Add(time.Duration(i) * time.Second)
	return store.Session{
		ID: id, Email: email, Generation: "g1", Created: created, Expires: created.Add(10 * time.Minute),
		Agent: "Firefox " + id, Address: "192.0.2.1",
	}
}

// wantSessions reports sessions of a user that differ from the wanted ones, by Session, SessionsOf and LiveSessions.
func wantSessions(t *testing.T, s store.Store, description, email string, all []string, want ...string) {
	t.Helper()
	slices.Sort(want)
	var single, listed []string
	for _, id := range all {
		if _, err := s.Session(ctx, id, now); err == nil {
			single = append(single, id)
		} else {
			wantError(t, description, err, store.ErrNotFound)
		}
	}
	sessions, err := s.SessionsOf(ctx, email, now, 100)
	must(t, err)
	for _, session := range sessions {
		listed = append(listed, session.ID)
	}
	live, err := s.LiveSessions(ctx, all, now)
	must(t, err)
	for call, got := range map[string][]string{"Session": single, "SessionsOf": listed, "LiveSessions": live} {
		slices.Sort(got)
		if !slices.Equal(got, want) {
			t.Errorf("%s: %s finds %q, want %q", description, call, got, want)
		}
	}
}

// testPasswords proves that a new password ends all sessions of the old one, also a session that is started later by a log-in
// that has read the old one, and that the devices change alone or with it.
func testPasswords(t *testing.T, open func() store.Store) {
	a, b := open(), open()
	wantError(t, "password of nobody", a.SetPassword(ctx, ana.ID, []byte("h"), "g2", nil), store.ErrNotFound)
	wantError(t, "devices of nobody", a.SetDevices(ctx, ana.ID, []string{"d"}), store.ErrNotFound)
	createUser(t, a, ana.ID, "s1", "s2")
	createUser(t, a, "eva@example.org", "e1")
	must(t, b.SetDevices(ctx, ana.ID, []string{"d1"}))
	must(t, b.SetDevices(ctx, ana.ID, []string{"d1"})) // an update that changes nothing finds its user too
	got, err := a.User(ctx, ana.ID)
	must(t, err)
	want := store.User{Email: ana.ID, Author: ana, Created: now, Generation: "g1", Devices: []string{"d1"}}
	got.PasswordHash = nil // an empty one may be read as nil
	wantEqual(t, "user with a device", got, want)

	must(t, b.SetPassword(ctx, ana.ID, []byte("new"), "g2", []string{"d3"}))
	want.PasswordHash, want.Generation, want.Devices = []byte("new"), "g2", []string{"d3"}
	got, err = a.User(ctx, ana.ID)
	must(t, err)
	wantEqual(t, "user with a new password", got, want)
	must(t, a.CreateSession(ctx, sessionOf(ana.ID, "late", 3)))
	current := sessionOf(ana.ID, "s3", 4)
	current.Generation = "g2"
	must(t, a.CreateSession(ctx, current))
	wantSessions(t, b, "after a new password", ana.ID, []string{"s1", "s2", "late", "s3"}, "s3")
	wantSessions(t, b, "of another user", "eva@example.org", []string{"e1"}, "e1")
}

// testDeletedUsers proves that a deleted user has no sessions, be they deleted or started at that moment, and that a new user
// of the same email does not get them.
func testDeletedUsers(t *testing.T, open func() store.Store) {
	a, b := open(), open()
	createUser(t, a, ana.ID, "s1", "s2")
	createUser(t, a, "eva@example.org", "e1")
	deleted, err := b.DeleteUser(ctx, ana.ID)
	must(t, err)
	slices.Sort(deleted)
	wantEqual(t, "deleted sessions", deleted, []string{"s1", "s2"})
	_, err = a.User(ctx, ana.ID)
	wantError(t, "a deleted user", err, store.ErrNotFound)
	all := []string{"s1", "s2", "late"}
	must(t, a.CreateSession(ctx, sessionOf(ana.ID, "late", 2)))
	wantSessions(t, a, "of a deleted user", ana.ID, all)
	wantSessions(t, a, "of another user", "eva@example.org", []string{"e1"}, "e1")
	must(t, a.CreateUser(ctx, store.User{Email: ana.ID, Author: ana, Created: now, Generation: "g2"}))
	wantSessions(t, b, "of a new user", ana.ID, all)
	again, err := b.DeleteUser(ctx, "nobody")
	must(t, err)
	wantEqual(t, "sessions of nobody", len(again), 0)
}

// testSessions proves that a session ends exactly at its expiry, that both ways to look it up agree, and that a deleted
// session stays deleted.
func testSessions(t *testing.T, open func() store.Store) {
	a, b := open(), open()
	_, err := a.Session(ctx, "s", now)
	wantError(t, "no session", err, store.ErrNotFound)
	createUser(t, a, ana.ID, "s")
	createUser(t, a, "eve")
	session := sessionOf(ana.ID, "s", 0)
	wantError(t, "same id", b.CreateSession(ctx, store.Session{ID: "s", Email: "eve", Expires: session.Expires}), store.ErrTaken)
	got, err := b.Session(ctx, "s", now)
	must(t, err)
	wantEqual(t, "session read by another process", got, session)

	long := sessionOf("eve", "long", 3600)
	must(t, b.CreateSession(ctx, long))
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
	listed, err := b.SessionsOf(ctx, ana.ID, session.Expires, 10)
	must(t, err)
	wantEqual(t, "listed at the expiry", len(listed), 0)
	// An empty list of ids is no error.
	none, err := a.LiveSessions(ctx, nil, now)
	must(t, err)
	wantEqual(t, "of no sessions", len(none), 0)
	// The session is found again at the time at which it had expired.
	later := session.Expires.Add(time.Minute)
	must(t, b.TouchSession(ctx, "s", later))
	got, err = a.Session(ctx, "s", session.Expires)
	must(t, err)
	session.Expires = later
	wantEqual(t, "after touch", got, session)

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

// testSessionsOf proves that a user's sessions are listed, the latest first, and deleted, and those of nobody else.
func testSessionsOf(t *testing.T, open func() store.Store) {
	a, b := open(), open()
	createUser(t, a, ana.ID, "s1", "s2", "s3")
	createUser(t, a, "eva@example.org", "e1", "e2")
	sessions, err := b.SessionsOf(ctx, ana.ID, now, 2)
	must(t, err)
	wantEqual(t, "the latest two", sessions, []store.Session{sessionOf(ana.ID, "s3", 2), sessionOf(ana.ID, "s2", 1)})
	sessions, err = b.SessionsOf(ctx, "nobody", now, 10)
	must(t, err)
	wantEqual(t, "of nobody", len(sessions), 0)

	deleted, err := b.DeleteSessionsOf(ctx, ana.ID, "s2")
	must(t, err)
	slices.Sort(deleted)
	wantEqual(t, "deleted", deleted, []string{"s1", "s3"})
	wantSessions(t, a, "all but one deleted", ana.ID, []string{"s1", "s2", "s3"}, "s2")
	deleted, err = a.DeleteSessionsOf(ctx, ana.ID, "")
	must(t, err)
	wantEqual(t, "the last one", deleted, []string{"s2"})
	deleted, err = a.DeleteSessionsOf(ctx, ana.ID, "e1")
	must(t, err)
	wantEqual(t, "none left", len(deleted), 0)
	wantSessions(t, a, "of another user", "eva@example.org", []string{"e1", "e2"}, "e1", "e2")
}

// testProducts proves which writes need an existing product, and that a change leaves the owner.
func testProducts(t *testing.T, open func() store.Store) {
	a, b := open(), open()
	list := func(description string, s store.Store, want ...store.Product) {
		t.Helper()
		products, err := s.Products(ctx, "", 10)
		must(t, err)
		wantEqual(t, description, products, append([]store.Product{}, want...))
	}
	list("no products", a)
	// Both prices show whether a store keeps float64 to the last bit. The ids are not in the order of creation.
	regla := store.Product{ID: "b", Nombre: "Regla", Precio: 0.1 + 0.2, Foto: "https://example.org/r.png", Owner: ana.ID}
	lapiz := store.Product{ID: "a", Nombre: "Lápiz", Precio: 1e15, Foto: "https://example.org/l.png"}
	wantError(t, "update nothing", a.UpdateProduct(ctx, regla), store.ErrNotFound)
	wantError(t, "delete nothing", a.DeleteProduct(ctx, "b"), store.ErrNotFound)
	must(t, a.CreateProduct(ctx, regla, 10))
	must(t, b.CreateProduct(ctx, lapiz, 10))
	wantError(t, "same id", b.CreateProduct(ctx, store.Product{ID: "b", Owner: "eva"}, 10), store.ErrTaken)
	wantError(t, "same id, owner has the most", b.CreateProduct(ctx, regla, 1), store.ErrTaken)
	list("products, by id", b, lapiz, regla)

	regla.Precio, regla.Nombre = 350, "Regla larga"
	changed := regla
	changed.Owner = "eva"
	must(t, b.UpdateProduct(ctx, changed))
	must(t, b.UpdateProduct(ctx, changed)) // an update that changes nothing finds its product too
	got, err := a.Product(ctx, "b")
	must(t, err)
	wantEqual(t, "updated", got, regla)

	must(t, a.DeleteProduct(ctx, "b"))
	_, err = b.Product(ctx, "b")
	wantError(t, "deleted", err, store.ErrNotFound)
	wantError(t, "delete twice", b.DeleteProduct(ctx, "b"), store.ErrNotFound)
	list("the rest", a, lapiz)
}

// testPages proves that pages of any size give every product once, in the order of the ids.
func testPages(t *testing.T, open func() store.Store) {
	s := open()
	var want []string
	for i := range 25 {
		id := fmt.Sprintf("p%02d", i*7%25) // not in the order of the ids
		must(t, s.CreateProduct(ctx, store.Product{ID: id, Owner: ana.ID}, 25))
		want = append(want, id)
	}
	slices.Sort(want)
	for _, limit := range []int{1, 4, 25, 100} {
		var got []string
		for after := ""; ; after = got[len(got)-1] {
			page, err := s.Products(ctx, after, limit)
			must(t, err)
			if len(page) > limit {
				t.Errorf("%d products of at most %d", len(page), limit)
			}
			for _, p := range page {
				got = append(got, p.ID)
			}
			if len(page) < limit {
				break
			}
		}
		wantEqual(t, fmt.Sprint("pages of ", limit), got, want)
	}
	for _, after := range []string{"p24", "z"} {
		page, err := s.Products(ctx, after, 10)
		must(t, err)
		wantEqual(t, "after "+after, page, []store.Product{})
	}
	page, err := s.Products(ctx, "p1", 1) // an id that does not exist
	must(t, err)
	wantEqual(t, "after p1", page[0].ID, "p10")
}

// testMostProducts proves that an owner never keeps more products than the limit, whatever many processes create at a time,
// that the limit holds for each owner alone, and that a deletion makes room.
func testMostProducts(t *testing.T, open func() store.Store) {
	const most, each = 20, 6
	stores := make([]store.Store, 8)
	for i := range stores {
		stores[i] = open()
	}
	owned := func(owner string) (n int) {
		t.Helper()
		all, err := stores[0].Products(ctx, "", 1000)
		must(t, err)
		for _, p := range all {
			if p.Owner == owner {
				n++
			}
		}
		return n
	}
	must(t, errors.Join(concurrently(len(stores), func(i int) error {
		for n := range each {
			err := stores[i].CreateProduct(ctx, store.Product{ID: fmt.Sprint(i, "-", n), Owner: ana.ID}, most)
			if err != nil && !errors.Is(err, store.ErrFull) {
				return err
			}
		}
		return nil
	})...))
	if n := owned(ana.ID); n > most || n < most/2 {
		t.Errorf("%d products created, the limit is %d", n, most)
	}
	for n := owned(ana.ID); n < most; n++ {
		must(t, stores[0].CreateProduct(ctx, store.Product{ID: fmt.Sprint("rest", n), Owner: ana.ID}, most))
	}
	one := store.Product{ID: "one more", Owner: ana.ID}
	wantError(t, "one more", stores[1].CreateProduct(ctx, one, most), store.ErrFull)
	must(t, stores[1].CreateProduct(ctx, store.Product{ID: "of another", Owner: "eva"}, most))
	wantEqual(t, "products", owned(ana.ID), most)
	first, err := stores[0].Products(ctx, "", 1)
	must(t, err)
	must(t, stores[2].DeleteProduct(ctx, first[0].ID))
	must(t, stores[1].CreateProduct(ctx, one, most))
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
	createUser(t, s, ana.ID)
	for id, expires := range map[string]time.Time{"old": now.Add(-time.Hour), "at": now, "new": now.Add(time.Hour)} {
		must(t, s.CreateSession(ctx, store.Session{ID: id, Email: ana.ID, Generation: "g1", Expires: expires}))
		_, err := s.Count(ctx, id, 1, expires)
		must(t, err)
	}
	_, err := s.Count(ctx, "read", 0, now.Add(-time.Hour)) // creates no counter
	must(t, err)
	// Two sessions and two counters expired. A second sweep finds nothing.
	for _, want := range []int{4, 0} {
		got, err := s.Sweep(ctx, now)
		must(t, err)
		wantEqual(t, "swept", got, want)
	}
	_, err = s.Session(ctx, "new", now)
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
