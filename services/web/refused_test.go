package web

import (
	"context"
	"errors"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"balanza/services/store"
)

// refusingStore is a database that refuses this process while refuses is set, and else cannot be reached; its errors contain
// what must not be shown.
type refusingStore struct {
	downStore
	refuses atomic.Bool
	works   atomic.Bool
}

func (s *refusingStore) err() error {
	switch {
	case s.works.Load():
		return nil
	case s.refuses.Load():
		return &store.RefusedError{Reason: "the database rejects the user or the password", Err: errors.New("mongo.internal:27017 hush-hush")}
	}
	return store.ErrUnavailable
}

func (s *refusingStore) Last(context.Context) (int64, error) { return 0, s.err() }

func (s *refusingStore) Products(context.Context, string, int) ([]store.Product, error) {
	return nil, s.err()
}

func (s *refusingStore) User(context.Context, string) (store.User, error) {
	return store.User{}, s.err()
}

func (s *refusingStore) Now(context.Context) (time.Time, error) { return time.Now(), s.err() }

// A server whose database refuses it says so on every page that needs one, without asking anybody to try again, and is not
// ready until the database has worked once. What needs no database works. An outage changes neither.
func TestRefusedStore(t *testing.T) {
	s := &refusingStore{}
	s.refuses.Store(true)
	site := siteOn(t, s, Config{})
	v := serve(t, site, listen(t))
	expect := func(path string, status int, language, text string) {
		t.Helper()
		for _, accept := range []string{"application/json", "text/html"} {
			a, body := get(t, v.url+path, "Accept", accept, "Accept-Language", language)
			if a.StatusCode != status || !strings.Contains(body, text) || strings.Contains(body, "hush") || strings.Contains(body, "internal:") {
				t.Errorf("%s as %s: %s, %s; want %d, %q", path, accept, a.Status, body, status, text)
			}
			if status == http.StatusInternalServerError && a.Header.Get("Retry-After") != "" {
				t.Errorf("%s asks to try again", path)
			}
		}
	}
	const reason = "the database rejects the user or the password"
	if err := site.config.Access.Check(t.Context()); err == nil {
		t.Fatal("not refused")
	}
	expect("/readyz", 503, "en", reason)
	expect("/readyz", 503, "es", reason)
	expect("/api/productos", 500, "en", "this site is misconfigured")
	expect("/api/productos", 500, "es", "este sitio está mal configurado")
	for _, path := range []string{"/healthz", "/info", "/api/randoms?cant=10", "/login"} {
		if a, _ := get(t, v.url+path); a.StatusCode != http.StatusOK {
			t.Errorf("%s: %s", path, a.Status)
		}
	}

	s.refuses.Store(false)
	_ = site.config.Access.Check(t.Context())
	expect("/readyz", 503, "en", reason)
	expect("/api/productos", 503, "en", "the database does not answer")

	s.works.Store(true)
	if err := site.config.Access.Check(t.Context()); err != nil {
		t.Fatal(err)
	}
	expect("/readyz", 200, "en", "ready")
	expect("/api/productos", 200, "en", "")

	s.works.Store(false)
	s.refuses.Store(true)
	expect("/api/productos", 500, "en", "this site is misconfigured")
	expect("/readyz", 200, "en", "ready")
}
