package load

import (
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"
)

func config(address string) Config {
	return Config{
		Address: address, Clients: 4, Requests: []string{"GET /", "POST /"}, Body: "{}",
		Interval: time.Millisecond, Timeout: 10 * time.Second,
	}
}

func TestResponses(t *testing.T) {
	server := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		want := map[string]string{http.MethodGet: "", http.MethodPost: "{}"}[r.Method]
		if body, err := io.ReadAll(r.Body); err != nil || string(body) != want {
			t.Errorf("%s with the body %q, %v", r.Method, body, err)
		}
	}))
	defer server.Close()
	l := Start(t, config(strings.TrimPrefix(server.URL, "http://")))
	l.AwaitResponses(t, 50)
	l.Stop()
	l.CheckFailures(t, 0)
}

// A load that missed failures would make every test pass that checks for none.
func TestFailures(t *testing.T) {
	failuresOf := func(address string) []Failure {
		t.Helper()
		l := Start(t, config(address))
		for began := time.Now(); len(l.Failures()) == 0 && time.Since(began) < 10*time.Second; time.Sleep(time.Millisecond) {
		}
		l.Stop()
		if l.Responses() != 0 || len(l.Failures()) == 0 {
			t.Fatalf("%d responses, %d failures", l.Responses(), len(l.Failures()))
		}
		return l.Failures()
	}
	for name, handler := range map[string]http.HandlerFunc{
		"connection closed": func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) },
		"status 500":        func(w http.ResponseWriter, _ *http.Request) { http.Error(w, "", http.StatusInternalServerError) },
	} {
		server := httptest.NewServer(handler)
		if f := failuresOf(strings.TrimPrefix(server.URL, "http://"))[0]; f.NoConnection() {
			t.Errorf("%s: %v counts as no connection", name, f.Err)
		}
		server.Close()
	}
	server := httptest.NewServer(nil)
	server.Close() // nothing listens on its port now
	if f := failuresOf(strings.TrimPrefix(server.URL, "http://"))[0]; !f.NoConnection() {
		t.Errorf("%v counts as a connection", f.Err)
	}
}
