package web

import (
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"balanza/services/limits"
	"balanza/services/processes"
	"balanza/services/store"
)

// openPanel opens a websocket as the panel does.
func (v *runningSite) openPanel(t *testing.T, cookie *http.Cookie) page {
	t.Helper()
	conn, answer := v.dial(t, cookie, v.url, "?panel=1")
	if conn == nil {
		t.Fatalf("no websocket: %v", answer)
	}
	_ = conn.SetReadDeadline(time.Now().Add(20 * time.Second))
	return page{conn}
}

// nextProcesses returns the next frame with processes.
func (p page) nextProcesses(t *testing.T) (f processesFrame) {
	t.Helper()
	for f.Type != framesType {
		f = processesFrame{}
		if err := p.ReadJSON(&f); err != nil {
			t.Fatalf("waiting for processes: %v", err)
		}
	}
	return f
}

// Every process is in the list, on any of them, for users only; the list says what the request came through.
func TestProcessList(t *testing.T) {
	folder := t.TempDir()
	config := Config{EdgeToken: "secret", TrustedProxies: []string{"127.0.0.1"}}
	one, other := startProcess(t, folder, config), startProcess(t, folder, config)
	addUser(t, one.store, "ana@example.org")
	cookie := addSession(t, one.store, "ana@example.org")
	one.send(t, call{path: "/api/processes", header: acceptJSON}).want(t, http.StatusUnauthorized)
	for range 3 {
		one.send(t, call{path: "/healthz"})
		one.send(t, call{path: "/readyz"})
		one.send(t, call{path: "/metrics"})
	}
	one.send(t, call{path: "/info"}).want(t, http.StatusOK)

	var list processesFrame
	eventually(t, "the records of both processes", func() bool {
		a := other.send(t, call{path: "/api/processes", cookie: cookie}).want(t, http.StatusOK)
		list = processesFrame{}
		if err := json.Unmarshal([]byte(a.body), &list); err != nil {
			t.Fatalf("%v: %s", err, a.body)
		}
		if a.Header.Get("Cache-Control") != "no-store" || a.Header.Get("Content-Type") != "application/json" {
			t.Errorf("%v", a.Header)
		}
		// The record of the other one may be older than its requests.
		return len(list.Processes) == 2 && slices.ContainsFunc(list.Processes, func(p processes.Process) bool { return p.Requests == 2 })
	})
	if list.Type != "" || *list.Via != "" || time.Since(list.Now).Abs() > time.Minute || len(list.History.Requests) != 60 {
		t.Errorf("%+v", list)
	}
	for _, p := range list.Processes {
		if p.State != processes.Online || p.ID == "" || p.PID == 0 || p.Server != testProcess().Server {
			t.Errorf("%+v", p)
		}
	}
	for _, c := range []struct {
		header map[string]string
		via    string
	}{
		{map[string]string{headerEdgeToken: "secret", "X-Forwarded-For": "192.0.2.1"}, "edge"},
		{map[string]string{headerEdgeToken: "wrong"}, ""},
		{map[string]string{"X-Forwarded-For": "192.0.2.1"}, "proxy"},
	} {
		a := one.send(t, call{path: "/api/processes", cookie: cookie, header: c.header}).want(t, http.StatusOK)
		if want := fmt.Sprintf(`"via":%q,`, c.via); !strings.Contains(a.body, want) {
			t.Errorf("%v: no %s in %.100s", c.header, want, a.body)
		}
	}
}

// A panel gets all processes at once, then every second those that have changed, also of another process; it is not in the
// chat, and its session's end closes it.
func TestPanel(t *testing.T) {
	folder := t.TempDir()
	one := startProcess(t, folder, Config{})
	startProcess(t, folder, Config{})
	addUser(t, one.store, "ana@example.org")
	cookie, second := addSession(t, one.store, "ana@example.org"), addSession(t, one.store, "ana@example.org")
	for _, query := range []string{"?panel=0", "?panel=2", "?panel=", "?panel=yes", "?panel=1&panel=1"} {
		if conn, a := one.dial(t, cookie, one.url, query); conn != nil || a == nil || a.StatusCode != http.StatusBadRequest {
			t.Errorf("%s: %v", query, a)
		}
	}
	if conn, a := one.dial(t, &http.Cookie{Name: "balanza", Value: "none"}, one.url, "?panel=1"); conn != nil || a.StatusCode != http.StatusUnauthorized {
		t.Errorf("without a session: %v", a)
	}
	eventually(t, "both processes", func() bool {
		list, err := one.config.Processes.List(t.Context())
		return err == nil && len(list.Processes) == 2
	})

	p, q := one.openPanel(t, cookie), one.openPanel(t, second)
	first := p.nextProcesses(t)
	if len(first.Processes) != 2 || first.Via == nil || first.History == nil {
		t.Fatalf("the first frame: %+v", first)
	}
	if f := q.nextProcesses(t); len(f.Processes) != 2 || f.History == nil {
		t.Errorf("the first frame of another panel: %+v", f)
	}
	// The other process learns of the panel, and its records come every second.
	known := make(map[string]processes.Process)
	before := first.Now
	for began := time.Now(); ; {
		f := p.nextProcesses(t)
		if f.Via != nil || f.History != nil || f.Processes == nil {
			t.Errorf("a change: %+v", f)
		}
		if gap := f.Now.Sub(before); gap > 3*time.Second {
			t.Errorf("%v between two frames", gap)
		}
		before = f.Now
		for _, each := range f.Processes {
			old := known[each.ID]
			if old.Seen = each.Seen; old == each {
				t.Errorf("no change: %+v", each)
			}
			known[each.ID] = each
		}
		panels, intervals := 0, 0
		for _, each := range known {
			intervals += each.Interval
			panels += each.Websockets
		}
		if len(known) == 2 && intervals == 2 && panels == 2 {
			break
		}
		if time.Since(began) > 15*time.Second {
			t.Fatalf("after %v: %+v", time.Since(began), known)
		}
	}

	p.write(t, `{"type":"message","text":"hola","clientId":"1"}`)
	if f := p.next(t, "error"); f.ClientID != "1" || f.Codigo != codeInvalid {
		t.Errorf("a message of a panel: %+v", f)
	}
	if err := one.store.DeleteSession(t.Context(), store.HashToken(cookie.Value)); err != nil {
		t.Fatal(err)
	}
	if code := p.closeCode(t); code != 1008 {
		t.Errorf("the end of its session closes a panel with %d", code)
	}
	q.nextProcesses(t)
	one.drain()
	if code := q.closeCode(t); code != 1012 {
		t.Errorf("the drain closes a panel with %d", code)
	}
}

// A panel counts as one of the account's websockets.
func TestPanelsAreLimited(t *testing.T) {
	p := startProcess(t, t.TempDir(), Config{Limits: limited(func(l *limits.Limits) { l.Websockets = 2 })})
	addUser(t, p.store, "ana@example.org")
	cookie := addSession(t, p.store, "ana@example.org")
	p.openPanel(t, cookie).nextProcesses(t)
	p.open(t, cookie).next(t, "chat")
	conn, _ := p.dial(t, cookie, p.url, "?panel=1")
	page{conn}.rejected(t)
}

// Each list is encoded once for all panels. One that misses many gets all processes again, and so does one that is opened
// after a time without panels.
func TestPanelFrames(t *testing.T) {
	p := newPanels(processes.New(downStore{}, nil, store.Process{}))
	second := 0
	show := func(ids ...string) {
		second++
		l := processes.List{Now: time.Unix(int64(second), 0).UTC()}
		for _, id := range ids {
			l.Processes = append(l.Processes, processes.Process{ID: id, Seen: l.Now, Requests: int64(len(ids))})
		}
		p.show(l)
	}
	show("before any panel is open")
	woken := 0
	a, b := p.add("", func() { woken++ }), p.add("edge", func() { woken++ })
	want := func(f *panel, text string) {
		t.Helper()
		frame, err := f.Next()
		if err != nil || text == "" != (frame == nil) || !strings.Contains(string(frame), text) {
			t.Errorf("frame %s, %v, want %s", frame, err, text)
		}
	}
	want(a, "")
	show("x", "y")
	if woken != 2 {
		t.Errorf("%d panels are woken", woken)
	}
	want(a, `"via":"","processes":[{"id":"x"`)
	want(a, "")
	want(b, `"via":"edge","processes":[{"id":"x"`)
	show("x", "y")
	want(a, `"now":"1970-01-01T00:00:03Z","processes":[]}`)
	show("x", "y", "z")
	fromA, _ := a.Next()
	want(b, `"processes":[]}`)
	fromB, _ := b.Next()
	if &fromA[0] != &fromB[0] {
		t.Error("a frame was encoded for each panel")
	}
	for range keptChanges {
		show("x")
	}
	want(a, `"processes":[{"id":"x"`) // one change after the other
	show("x", "y")
	want(b, `"via":"edge"`) // it missed one more than are kept
	want(b, "")
	a.Close()
	b.Close()
	show("nobody")
	c := p.add("", func() {})
	want(c, "")
	show("x")
	want(c, `"via":"","processes":[{"id":"x"`)
	c.Close()
	if n := p.count(); n != 0 {
		t.Errorf("%d panels are open", n)
	}
}
