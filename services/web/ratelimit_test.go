package web

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/crypto/bcrypt"

	"balanza/services/limits"
	"balanza/services/store"
)

// viaProxy makes the processes of a test believe the addresses that its requests name.
var viaProxy = []string{"127.0.0.1"}

// from returns the headers of a request of an address that wants JSON.
func from(address string) map[string]string {
	return map[string]string{"X-Forwarded-For": address, "Accept": "application/json"}
}

// parallel sends requests at the same time and returns how many answers had each status.
func parallel(t *testing.T, n int, send func(i int) response) map[int]int {
	t.Helper()
	statuses := make([]int, n)
	var sending sync.WaitGroup
	for i := range n {
		sending.Go(func() { statuses[i] = send(i).StatusCode })
	}
	sending.Wait()
	count := make(map[int]int)
	for _, status := range statuses {
		count[status]++
	}
	return count
}

// median returns the median of the durations of calls.
func median(n int, f func()) time.Duration {
	var durations []time.Duration
	for range n {
		began := time.Now()
		f()
		durations = append(durations, time.Since(began))
	}
	slices.Sort(durations)
	return durations[n/2]
}

// writtenCounts are the calls of Count that write.
func (s *countingStore) writtenCounts() (n int) {
	for _, name := range s.take() {
		if name == "Count" {
			n++
		}
	}
	return n
}

// Whoever uses up the budget of an address locks out nobody who shares it: neither a user who logs in for the first time there
// nor, from a known browser, one whose email was attacked. What is refused writes nothing and computes no hash.
func TestLoginBudgetOfAddress(t *testing.T) {
	few := limits.Default()
	few.Logins, few.LoginFailures = 3, 8
	counts := &countingStore{}
	folder := t.TempDir()
	p := startOn(t, folder, Config{Limits: few, TrustedProxies: viaProxy, Store: counts}, listen(t))
	other := startProcess(t, folder, Config{Limits: few, TrustedProxies: viaProxy})
	for _, email := range []string{"ana@example.org", "eva@example.org", "leo@example.org"} {
		addUser(t, p.store, email)
	}
	awaitWindow(t, loginWindow)
	const shared = "192.0.2.1"
	login := func(p *process, email, password string, cookie *http.Cookie) response {
		return p.send(t, call{method: "POST", path: "/login", cookie: cookie, header: from(shared), form: credentials(email, password)})
	}
	device := login(p, "ana@example.org", knownPassword, nil).want(t, http.StatusOK).device(t)
	for i := range few.Logins {
		login(p, "ana@example.org", fmt.Sprint("guess ", i), nil).want(t, http.StatusUnauthorized)
	}
	for i := range few.LoginFailures - few.Logins {
		login(other, fmt.Sprintf("nobody%d@example.org", i), "guess", nil).want(t, http.StatusUnauthorized)
	}
	// The address has no attempt left, and these emails have failed.
	counts.take()
	restore := withoutHashers(p)
	for i := range 50 {
		a := login(p, []string{"ana@example.org", "nobody1@example.org"}[i%2], knownPassword, nil).want(t, http.StatusTooManyRequests)
		if a.Header.Get("Retry-After") == "" {
			t.Errorf("%v", a.Header)
		}
	}
	restore()
	if n := counts.writtenCounts(); n != 0 {
		t.Errorf("50 refused log-ins wrote %d counts", n)
	}
	// The victims: one who has not failed here, also after a first failure elsewhere, and the attacked one in her own browser.
	login(p, "eva@example.org", knownPassword, nil).want(t, http.StatusOK)
	login(other, "leo@example.org", knownPassword, nil).want(t, http.StatusOK)
	login(other, "ana@example.org", knownPassword, device).want(t, http.StatusOK)
	login(p, "eva@example.org", "a wrong one", nil).want(t, http.StatusUnauthorized)
	login(p, "eva@example.org", "a wrong one", nil).want(t, http.StatusTooManyRequests)
	// A device cookie is no way around the limit, and one of another user is none at all.
	for range few.Logins {
		login(p, "ana@example.org", "guess", device).want(t, http.StatusUnauthorized)
	}
	login(p, "ana@example.org", knownPassword, device).want(t, http.StatusTooManyRequests)
	login(p, "nobody1@example.org", "guess", device).want(t, http.StatusTooManyRequests)
	for _, value := range []string{store.NewToken(), "x", strings.Repeat("A", 43)} {
		forged := &http.Cookie{Name: device.Name, Value: value}
		login(p, "ana@example.org", knownPassword, forged).want(t, http.StatusTooManyRequests)
	}
}

// withoutHashers takes the process's hashers away until restore is called: a request that needs a hash gets 503.
func withoutHashers(p *process) (restore func()) {
	p.hashers.mu.Lock()
	defer p.hashers.mu.Unlock()
	free := p.hashers.free
	p.hashers.free = 0
	return func() {
		for range free {
			p.hashers.release()
		}
	}
}

// Attempts at the same time on two processes do not exceed the limits.
func TestParallelGuesses(t *testing.T) {
	few := limits.Default()
	few.Logins = 4
	folder := t.TempDir()
	config := Config{Limits: few, TrustedProxies: viaProxy}
	processes := []*process{startProcess(t, folder, config), startProcess(t, folder, config)}
	addUser(t, processes[0].store, "ana@example.org")
	awaitWindow(t, loginWindow)
	got := parallel(t, 14, func(i int) response {
		return processes[i%2].send(t, call{method: "POST", path: "/login", header: from("192.0.2.1"), form: credentials("ana@example.org", "guess")})
	})
	if got[http.StatusUnauthorized] == 0 || got[http.StatusUnauthorized] > few.Logins || got[401]+got[429]+got[503] != 14 {
		t.Errorf("statuses %v, want at most %d of 401", got, few.Logins)
	}
}

// A flood of log-ins for many emails, and one of sign-ups, leave others' log-ins quick, whether they come from another address
// or, after the sign-ups, from the same.
func TestFloods(t *testing.T) {
	plenty := limits.Default()
	plenty.LoginFailures, plenty.Signups = 10_000, 10_000
	folder := t.TempDir()
	config := Config{Limits: plenty, TrustedProxies: viaProxy}
	p := startProcess(t, folder, config)
	p.hashers.cost = 8 // 15 ms of a core, with the race detector ten times as much
	p.hashers.dummy = must(bcrypt.GenerateFromPassword(digest("x"), p.hashers.cost))
	// The victim's hash costs as much as others'; that of addUser is cheap.
	p.send(t, call{method: "POST", path: "/signup", form: profile("ana@example.org", newPassword)}).want(t, http.StatusSeeOther)
	login := func(address string) func() {
		return func() {
			p.send(t, call{method: "POST", path: "/login", header: from(address), form: credentials("ana@example.org", newPassword)}).
				want(t, http.StatusOK)
		}
	}
	const senders = maxTickets + 4
	quiet := median(9, login("198.51.100.7"))
	for name, flood := range map[string]struct {
		victim string
		attack func(i int) call
	}{
		"log-ins": {"198.51.100.7", func(i int) call {
			return call{path: "/login", form: credentials(fmt.Sprintf("nobody%d@example.org", i), "guess")}
		}},
		"sign-ups": {"192.0.2.1", func(i int) call {
			return call{path: "/signup", form: profile(fmt.Sprintf("new%d@example.org", i), newPassword)}
		}},
	} {
		done := make(chan struct{})
		var attackers sync.WaitGroup
		var answered sync.Map
		for i := range senders {
			attackers.Go(func() {
				for n := i; ; n += senders {
					select {
					case <-done:
						return
					default:
					}
					c := flood.attack(n)
					c.method, c.header = "POST", from("192.0.2.1")
					c.cookie = &http.Cookie{Name: "balanza.device", Value: store.NewToken()} // of no user
					answered.Store(p.send(t, c).StatusCode, true)
					time.Sleep(50 * time.Millisecond) // the attackers use the processors of this test too
				}
			})
		}
		time.Sleep(300 * time.Millisecond) // the lines fill
		attacked := median(9, login(flood.victim))
		close(done)
		attackers.Wait()
		if _, refused := answered.Load(http.StatusServiceUnavailable); !refused {
			t.Errorf("%s: nothing was refused: the address had no limit", name)
		}
		// The victim waits for the hash that is being computed and one more, if it is not its turn.
		if attacked > 3*quiet+500*time.Millisecond {
			t.Errorf("%s: a log-in of another takes %v, and %v without the flood", name, attacked, quiet)
		}
		t.Logf("%s: a log-in of another takes %v, and %v without the flood", name, attacked, quiet)
	}
}

// Free hashers serve the lanes in turn, and in a lane the clients in turn, and a client has a limited number of tickets.
func TestHasherTurns(t *testing.T) {
	h := newHashers()
	h.free = 0
	var order []string
	var mu sync.Mutex
	var waiting sync.WaitGroup
	wait := func(laneNumber int, client string) {
		t.Helper()
		ticket, err := h.enter(laneNumber, client)
		if err != nil {
			t.Fatal(err)
		}
		h.mu.Lock()
		before := len(ticket.lane.waiting[client])
		h.mu.Unlock()
		waiting.Go(func() {
			defer ticket.close()
			if err := ticket.acquire(t.Context()); err != nil {
				t.Error(err)
			}
			mu.Lock()
			order = append(order, client)
			mu.Unlock()
			h.release()
		})
		for queued := false; !queued; {
			h.mu.Lock()
			queued = len(ticket.lane.waiting[client]) > before
			h.mu.Unlock()
		}
	}
	for range maxTickets {
		wait(loginLane, "flood")
	}
	if _, err := h.enter(loginLane, "flood"); err != errBusy {
		t.Errorf("one ticket more than %d: %v", maxTickets, err)
	}
	for _, client := range []string{"new 1", "new 2", "new 3"} {
		wait(signupLane, client)
	}
	wait(loginLane, "ana")
	h.release() // one hasher becomes free
	waiting.Wait()
	want := []string{"flood", "new 1", "flood", "new 2", "ana", "new 3", "flood"}
	if !slices.Equal(order[:len(want)], want) {
		t.Errorf("served %v, want first %v", order, want)
	}
	if h.free != 1 || len(h.lanes[loginLane].open) != 0 {
		t.Errorf("%d free hashers, tickets %v", h.free, h.lanes[loginLane].open)
	}
	// Whoever stops waiting gives the hasher on.
	h.free = 0
	ticket, err := h.enter(loginLane, "gone")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
	defer cancel()
	if err := ticket.acquire(ctx); err != errBusy {
		t.Errorf("without a free hasher: %v", err)
	}
	wait(loginLane, "next")
	h.release()
	waiting.Wait()
}

// One address signs up a limited number of users in an hour, over all processes; more computes no hash and writes nothing, and
// others can sign up.
func TestSignupBudget(t *testing.T) {
	few := limits.Default()
	few.Signups = 3
	counts := &countingStore{}
	folder := t.TempDir()
	config := Config{Limits: few, TrustedProxies: viaProxy}
	other := startProcess(t, folder, config)
	config.Store = counts
	p := startOn(t, folder, config, listen(t))
	awaitWindow(t, signupWindow)
	users := 0
	signUp := func(p *process, address string) response {
		users++
		return p.send(t, call{method: "POST", path: "/signup", header: from(address), form: profile(fmt.Sprintf("u%d@example.org", users), newPassword)})
	}
	for i := range few.Signups {
		signUp([]*process{p, other}[i%2], "192.0.2.1").want(t, http.StatusCreated)
	}
	counts.take()
	restore := withoutHashers(p)
	for range 20 {
		a := signUp(p, "192.0.2.1").want(t, http.StatusTooManyRequests)
		if a.Header.Get("Retry-After") == "" || a.jsonError(t).Error != codeTooMany {
			t.Errorf("%v %s", a.Header, a.body)
		}
	}
	restore()
	if n := counts.writtenCounts(); n != 0 {
		t.Errorf("20 refused sign-ups wrote %d counts", n)
	}
	signUp(p, "198.51.100.7").want(t, http.StatusCreated)
}

// One account has a limited number of products and of changes, over all processes and also for requests at the same time.
// Others go on.
func TestProductLimits(t *testing.T) {
	few := limits.Default()
	few.Products, few.ProductChanges = 6, 1000
	folder := t.TempDir()
	processes := []*process{startProcess(t, folder, Config{Limits: few}), startProcess(t, folder, Config{Limits: few})}
	st := processes[0].store
	cookies := map[string]*http.Cookie{}
	for _, name := range []string{"ana", "eva", "leo"} {
		addUser(t, st, name+"@example.org")
		cookies[name] = addSession(t, st, name+"@example.org")
	}
	change := func(i int, name, method, path string) response {
		return processes[i%len(processes)].send(t, call{method: method, path: path, cookie: cookies[name],
			json: `{"nombre":"Regla","precio":1,"foto":"https://example.org/r.png"}`})
	}
	got := parallel(t, 20, func(i int) response { return change(i, "ana", "POST", "/api/productos") })
	if got[http.StatusCreated] != few.Products || got[http.StatusForbidden] != 20-few.Products {
		t.Errorf("statuses %v, want %d of 201 and the rest 403", got, few.Products)
	}
	if e := change(0, "ana", "POST", "/api/productos").want(t, http.StatusForbidden).jsonError(t); e.Error != codeFull {
		t.Errorf("%+v", e)
	}
	evas := change(0, "eva", "POST", "/api/productos").want(t, http.StatusCreated).Header.Get("Location")
	products, err := st.Products(t.Context(), "", 100)
	if err != nil || len(products) != few.Products+1 {
		t.Errorf("%d products (%v)", len(products), err)
	}
	change(1, "ana", "DELETE", "/api/productos/"+products[0].ID).want(t, http.StatusNoContent)
	change(0, "ana", "POST", "/api/productos").want(t, http.StatusCreated)
	// Whoever changes a product of another does not become its owner.
	change(0, "ana", "PUT", evas).want(t, http.StatusOK)
	if p, err := st.Product(t.Context(), strings.TrimPrefix(evas, "/api/productos/")); err != nil || p.Owner != "eva@example.org" {
		t.Errorf("%+v (%v)", p, err)
	}

	few.ProductChanges = 9
	processes = []*process{startProcess(t, folder, Config{Limits: few}), startProcess(t, folder, Config{Limits: few})}
	awaitWindow(t, changeWindow)
	leo := change(0, "leo", "POST", "/api/productos").want(t, http.StatusCreated).Header.Get("Location")
	got = parallel(t, 20, func(i int) response {
		switch i % 3 {
		case 0:
			return change(i, "leo", "PUT", leo)
		case 1:
			return change(i, "leo", "POST", "/api/productos")
		}
		return change(i, "leo", "DELETE", "/api/productos/none")
	})
	if done := 20 - got[http.StatusTooManyRequests]; done == 0 || done > few.ProductChanges-1 {
		t.Errorf("statuses %v, want at most %d changes", got, few.ProductChanges-1)
	}
	if a := change(0, "leo", "PUT", leo).want(t, http.StatusTooManyRequests); a.Header.Get("Retry-After") == "" {
		t.Errorf("%v", a.Header)
	}
	change(1, "eva", "PUT", evas).want(t, http.StatusOK)
	processes[0].send(t, call{path: leo}).want(t, http.StatusOK) // reading is no change
}

// The list of products comes in pages, each with the address of the next, and names a wrong parameter.
func TestProductPages(t *testing.T) {
	p := start(t)
	const products = 230
	var want []string
	for i := range products {
		id := fmt.Sprintf("%03d &<>\"", i)
		want = append(want, id)
		if err := p.store.CreateProduct(t.Context(), store.Product{ID: id, Owner: "ana@example.org"}, products); err != nil {
			t.Fatal(err)
		}
	}
	for start, sizes := range map[string][]int{
		"/api/productos": {100, 100, 30}, "/api/productos?limit=115": nil, "/api/productos?limit=77": {77, 77, 76},
		"/api/productos?after=&limit=100": {100, 100, 30},
	} {
		var got []string
		var pages []int
		for path := start; path != "" && sizes != nil; {
			a := p.send(t, call{path: path}).want(t, http.StatusOK)
			var page []store.Product
			if err := json.Unmarshal([]byte(a.body), &page); err != nil {
				t.Fatal(err)
			}
			if strings.Contains(a.body, "ana@example.org") {
				t.Errorf("the owner is in %s", a.body)
			}
			for _, one := range page {
				got = append(got, one.ID)
			}
			pages = append(pages, len(page))
			link := a.Header.Get("Link")
			path, _, _ = strings.Cut(strings.TrimPrefix(link, "<"), ">")
			if link != "" && !strings.HasSuffix(link, `>; rel="next"`) {
				t.Errorf("Link: %s", link)
			}
		}
		if sizes != nil && (!slices.Equal(pages, sizes) || !slices.Equal(got, want)) {
			t.Errorf("%s: pages of %v, want %v", start, pages, sizes)
		}
	}
	for query, field := range map[string]string{
		"limit=0": "limit", "limit=101": "limit", "limit=-1": "limit", "limit=": "limit", "limit=1.5": "limit", "limit=0x10": "limit",
		"limit=%2B5": "limit", "limit=1e1": "limit", "limit=99999999999999999999": "limit", "limit=5&limit=6": "limit",
		"after=a&after=b": "after", "after=%00": "after", "after=%ff": "after", "after=" + strings.Repeat("a", 101): "after",
	} {
		e := p.send(t, call{path: "/api/productos?" + query}).want(t, http.StatusBadRequest).jsonError(t)
		if e.Campo != field || e.Error != codeInvalid {
			t.Errorf("%s: %+v", query, e)
		}
	}
	a := p.send(t, call{path: "/api/productos?after=zzz"}).want(t, http.StatusOK)
	if a.body != "[]" || a.Header.Get("Link") != "" {
		t.Errorf("%v %s", a.Header, a.body)
	}
}
