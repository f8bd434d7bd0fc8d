package web

import (
	"bytes"
	"compress/gzip"
	"context"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"net/http/cookiejar"
	"net/url"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/gorilla/websocket"
	"golang.org/x/crypto/bcrypt"

	"balanza/services/limits"
	"balanza/services/store"
)

var anasLogin = credentials("ana@example.org", knownPassword)

// A log-in starts a session with a new id: an id that an attacker has planted, or that of an earlier session, is not used.
func TestSessionFixation(t *testing.T) {
	p := start(t)
	addUser(t, p.store, "ana@example.org")
	planted := &http.Cookie{Name: "balanza", Value: strings.Repeat("A", 43)}
	first := p.send(t, call{method: "POST", path: "/login", cookie: planted, form: anasLogin}).
		want(t, http.StatusSeeOther).session(t)
	if first.Value == planted.Value {
		t.Error("the planted id became a session")
	}
	p.send(t, call{path: "/", cookie: planted}).want(t, http.StatusSeeOther)
	second := p.send(t, call{method: "POST", path: "/login", cookie: first, form: anasLogin}).
		want(t, http.StatusSeeOther).session(t)
	p.send(t, call{path: "/", cookie: second}).want(t, http.StatusOK)
	p.send(t, call{path: "/", cookie: first}).want(t, http.StatusSeeOther)
}

// A log-out on one process ends the session on another, which closes its websocket and rejects the cookie.
func TestLogOutOnAllProcesses(t *testing.T) {
	folder := t.TempDir()
	one, other := startProcess(t, folder, Config{}), startProcess(t, folder, Config{})
	addUser(t, one.store, "ana@example.org")
	cookie := addSession(t, one.store, "ana@example.org")
	ws := other.open(t, cookie)
	ws.next(t, "chat")
	logout := one.send(t, call{method: "POST", path: "/logout", cookie: cookie}).want(t, http.StatusOK)
	if !strings.Contains(logout.body, "Hasta luego") || !strings.Contains(logout.body, "ana@example.org") {
		t.Errorf("the log-out page: %s", logout.body)
	}
	if code := ws.closeCode(t); code != websocket.ClosePolicyViolation {
		t.Errorf("the websocket was closed with %d", code)
	}
	other.send(t, call{path: "/", cookie: cookie}).want(t, http.StatusSeeOther)
	other.send(t, call{method: "POST", path: "/api/productos", cookie: cookie, json: "{}"}).want(t, http.StatusUnauthorized)
}

// A session that is deleted in the database itself ends at the next request, and its websockets end.
func TestSessionDeleted(t *testing.T) {
	p := start(t)
	addUser(t, p.store, "ana@example.org")
	cookie := addSession(t, p.store, "ana@example.org")
	ws := p.open(t, cookie)
	ws.next(t, "chat")
	if err := p.store.DeleteSession(t.Context(), store.HashToken(cookie.Value)); err != nil {
		t.Fatal(err)
	}
	p.send(t, call{path: "/", cookie: cookie}).want(t, http.StatusSeeOther)
	if code := ws.closeCode(t); code != websocket.ClosePolicyViolation {
		t.Errorf("the websocket was closed with %d", code)
	}
}

// The session cookie has its flags, and is Secure when a trusted proxy reports TLS.
func TestCookie(t *testing.T) {
	folder := t.TempDir()
	direct := startProcess(t, folder, Config{})
	proxied := startProcess(t, folder, Config{TrustedProxies: []string{"127.0.0.0/8"}})
	addUser(t, direct.store, "ana@example.org")
	login := call{method: "POST", path: "/login", form: anasLogin,
		header: map[string]string{"X-Forwarded-Proto": "https"}}

	c := direct.send(t, login).want(t, http.StatusSeeOther).session(t)
	if c.Name != "balanza" || c.Secure {
		t.Errorf("an untrusted X-Forwarded-Proto was believed: %s", c.Raw)
	}
	secure := proxied.send(t, login).want(t, http.StatusSeeOther).session(t)
	if secure.Name != "__Host-balanza" || !secure.Secure {
		t.Errorf("by TLS: %s", secure.Raw)
	}
	for _, c := range []*http.Cookie{c, secure} {
		if !c.HttpOnly || c.SameSite != http.SameSiteLaxMode || c.Path != "/" || c.Domain != "" || len(c.Value) < 43 {
			t.Errorf("cookie %s", c.Raw)
		}
	}
	// A cookie that was set over TLS is not accepted without TLS.
	direct.send(t, call{path: "/", cookie: secure}).want(t, http.StatusSeeOther)
}

// Two sites on one host, each with a store of its own and a cookie's name of its own, do not log each other's users out: a
// browser sends both the cookies of both, whatever their ports are.
func TestCookiesOfTwoSites(t *testing.T) {
	jar, err := cookiejar.New(nil) // as a browser's it ignores ports
	if err != nil {
		t.Fatal(err)
	}
	client := &http.Client{Jar: jar, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	home := func(p *process) int {
		r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, p.url+"/", nil)
		if err != nil {
			t.Fatal(err)
		}
		a, _ := send(t, client, r)
		return a.StatusCode
	}
	var sites []*process
	for _, name := range []string{"shop", "shop-device", "shop_2"} {
		p := startProcess(t, t.TempDir(), Config{Cookie: name})
		addUser(t, p.store, "ana@example.org")
		sites = append(sites, p)
	}
	for range 2 {
		for _, p := range sites {
			r, err := http.NewRequestWithContext(t.Context(), http.MethodPost, p.url+"/login", strings.NewReader(anasLogin.Encode()))
			if err != nil {
				t.Fatal(err)
			}
			r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
			if a, _ := send(t, client, r); a.StatusCode != http.StatusSeeOther {
				t.Fatalf("log-in: %d", a.StatusCode)
			}
		}
		for i, p := range sites {
			if status := home(p); status != http.StatusOK {
				t.Errorf("site %d: status %d after the log-ins", i, status)
			}
			user, err := p.store.User(t.Context(), "ana@example.org")
			if err != nil || len(user.Devices) != 1 {
				t.Errorf("site %d knows the devices %v of one browser, %v", i, user.Devices, err)
			}
		}
	}
	r, err := http.NewRequestWithContext(t.Context(), http.MethodPost, sites[0].url+"/logout", nil)
	if err != nil {
		t.Fatal(err)
	}
	if a, _ := send(t, client, r); a.StatusCode != http.StatusOK {
		t.Errorf("log-out: %d", a.StatusCode)
	}
	for i, want := range []int{http.StatusSeeOther, http.StatusOK, http.StatusOK} {
		if status := home(sites[i]); status != want {
			t.Errorf("site %d: status %d after a log-out from site 0, want %d", i, status, want)
		}
	}
}

// Routes that change something reject requests of other sites' pages.
func TestCrossSite(t *testing.T) {
	p := start(t)
	addUser(t, p.store, "ana@example.org")
	cookie := addSession(t, p.store, "ana@example.org")
	host := strings.TrimPrefix(p.url, "http://")
	evil := []map[string]string{
		{"Sec-Fetch-Site": "cross-site"},
		{"Sec-Fetch-Site": "same-site", "Origin": p.url},
		{"Origin": "https://evil.example"},
		{"Origin": "null"},
		{"Origin": "http://" + host + ".evil.example"},
		{"Origin": "http://evil.example@" + host},
		{"Origin": "http://127.0.0.1:1"},
		{"Origin": "ftp://" + host},
	}
	for _, route := range []string{"POST /login", "POST /signup", "POST /register", "POST /logout",
		"POST /account/password", "POST /account/sessions", "POST /account/delete", "POST /api/productos", "PUT /api/productos/x", "DELETE /api/productos/x"} {
		method, path, _ := strings.Cut(route, " ")
		for _, header := range evil {
			a := p.send(t, call{method: method, path: path, cookie: cookie, header: header, form: anasLogin})
			if a.StatusCode != http.StatusForbidden || a.jsonError(t).Error != codeUnauthorised {
				t.Errorf("%s with %v: %d %s", route, header, a.StatusCode, a.body)
			}
		}
	}
	for _, header := range []map[string]string{
		{}, {"Sec-Fetch-Site": "same-origin"}, {"Sec-Fetch-Site": "none"}, {"Origin": p.url},
	} {
		p.send(t, call{method: "POST", path: "/api/productos", cookie: cookie, header: header,
			json: `{"nombre":"a","precio":1,"foto":"https://example.org/a.png"}`}).want(t, http.StatusCreated)
	}
}

// Only pages of this site can open a websocket, and only with a session.
func TestCrossSiteWebsocket(t *testing.T) {
	p := start(t)
	addUser(t, p.store, "ana@example.org")
	cookie := addSession(t, p.store, "ana@example.org")
	elsewhere := strings.Replace(p.url, "127.0.0.1", "localhost", 1)
	for _, origin := range []string{"https://evil.example", "null", "", elsewhere} {
		if conn, a := p.dial(t, cookie, origin, ""); conn != nil || a == nil || a.StatusCode != http.StatusForbidden {
			t.Errorf("origin %q: %v", origin, a)
		}
	}
	nobody := &http.Cookie{Name: "balanza", Value: "x"}
	if conn, a := p.dial(t, nobody, p.url, ""); conn != nil || a.StatusCode != http.StatusUnauthorized {
		t.Errorf("without a session: %v", a)
	}
	p.open(t, cookie).next(t, "chat")
}

// An unknown email and a wrong password get the same answer after the same work.
func TestLoginHidesAccounts(t *testing.T) {
	p := start(t)
	addUser(t, p.store, "ana@example.org")
	for _, header := range []map[string]string{{}, acceptJSON} {
		var answers []string
		for _, email := range []string{"ana@example.org", "eva@example.org"} {
			a := p.send(t, call{method: "POST", path: "/login", header: header, form: credentials(email, "not the one")})
			a.Header.Del("Date")
			a.Header.Del("X-Request-Id")
			answers = append(answers, fmt.Sprint(a.StatusCode, a.Header, a.body))
		}
		if answers[0] != answers[1] {
			t.Errorf("%s\nand\n%s", answers[0], answers[1])
		}
	}
	if cost, err := bcrypt.Cost(dummyHash); cost != hashCost || err != nil {
		t.Errorf("the dummy hash costs %d (%v), a user's %d", cost, err, hashCost)
	}
	h := newHashers()
	client, err := h.enter(loginLane, "192.0.2.1")
	if err != nil {
		t.Fatal(err)
	}
	defer client.close()
	stopped, cancel := context.WithCancel(t.Context())
	cancel() // every wait for a hasher fails
	for name, hash := range map[string][]byte{"a user": dummyHash, "an unknown user": nil} {
		if _, err := client.match(stopped, hash, "x"); err != errBusy {
			t.Errorf("%s's password was compared without computing a hash: %v", name, err)
		}
	}
	if ok, err := client.match(t.Context(), nil, "any"); ok || err != nil {
		t.Errorf("an unknown user has logged in: %v %v", ok, err)
	}
}

// Failed log-ins are counted over all processes, and do not lock the user out at other addresses.
func TestBruteForce(t *testing.T) {
	folder := t.TempDir()
	trusting := Config{TrustedProxies: []string{"127.0.0.1"}}
	processes := []*process{startProcess(t, folder, trusting), startProcess(t, folder, trusting)}
	addUser(t, processes[0].store, "ana@example.org")
	login := func(n int, address, password string) response {
		return processes[n%2].send(t, call{method: "POST", path: "/login", form: credentials("ana@example.org", password),
			header: map[string]string{"X-Forwarded-For": "203.0.113.1, " + address, "Accept": "application/json"}})
	}
	awaitWindow(t, loginWindow)
	most := limits.Default().Logins
	for n := range most {
		login(n, "192.0.2.1", "guess").want(t, http.StatusUnauthorized)
	}
	a := login(0, "192.0.2.1", "guess").want(t, http.StatusTooManyRequests)
	if a.Header.Get("Retry-After") == "" || a.jsonError(t).Error != codeTooMany {
		t.Errorf("%v %s", a.Header, a.body)
	}
	login(0, "192.0.2.1", knownPassword).want(t, http.StatusTooManyRequests)
	login(1, "192.0.2.1", knownPassword).want(t, http.StatusTooManyRequests)
	for range most + 2 { // successful log-ins are not counted
		login(0, "198.51.100.7", knownPassword).want(t, http.StatusOK)
	}

	processes = append(processes[:0], startProcess(t, folder, Config{}), startProcess(t, folder, Config{}))
	for n := range most { // X-Forwarded-For of an untrusted address is ignored
		login(n, fmt.Sprintf("192.0.2.%d", n), "guess").want(t, http.StatusUnauthorized)
	}
	login(0, "203.0.113.9", knownPassword).want(t, http.StatusTooManyRequests)
}

// awaitWindow waits for the next window when the present one ends soon: counts begin anew with each, so a test must not run
// across the end of one.
func awaitWindow(t *testing.T, window time.Duration) {
	t.Helper()
	if left := time.Until(time.Now().Truncate(window).Add(window)); left < min(20*time.Second, window/2) {
		time.Sleep(left)
	}
}

func TestNetwork(t *testing.T) {
	for address, want := range map[string]string{
		"192.0.2.1": "192.0.2.1", "::ffff:192.0.2.1": "192.0.2.1", "2001:db8:1:2:3:4:5:6": "2001:db8:1:2::/64", "": "unknown",
	} {
		if got := network(address); got != want {
			t.Errorf("%q: %q, want %q", address, got, want)
		}
	}
}

// Weak passwords are rejected, and every character of a long one counts.
func TestPasswords(t *testing.T) {
	for password, ok := range map[string]bool{
		"4 chars.": true, "ñandúes!": true, "correct horse": true, "cuatro palabras bien raras": true,
		"caballo batería grapa correcto": true, strings.Repeat("x yz8", 22): true, "xK7#pQ2w": true, "lechuza-anaranjada": true,
		strings.Repeat("0123456789", 25) + "ñ": true,
		"7 chars":                              false, "": false, strings.Repeat("ab", 129): false, "xxxxxxxxxxxx": false, "\xff\xfe123456": false,
		"password": false, "Password1!": false, "P@$$w0rd": false, "p4ssw0rd2024": false, "qwertyuiop": false, "QWERTY123": false,
		"12345678": false, "98765432": false, "19900512": false, "abcdefghij": false, "monkeymonkey": false, "aaaabbbbcccc": false,
		"contraseña": false, "Contraseña1!": false, "teamomucho": false, "argentina2026": false,
		"balanza!": false, "Balanza2026": false, "balanza-balanza": false,
		"ana@example.org": false, "ana.paz.1990": false, "PazAna123": false, "example.org": false, "lechuzas": false,
		"\u0301\u0301\u0301\u0301\u0301\u0301\u0301\u0301": false,
	} {
		if err := checkStrength("password", password, "ana@example.org", "Ana", "Paz", "Lechuzas"); (err == nil) != ok {
			t.Errorf("%q: %v", password, err)
		}
	}
	p := start(t)
	long := strings.Repeat("0123456789", 8) + "A" // 81 bytes: bcrypt sees 72 of them
	p.send(t, call{method: "POST", path: "/signup", form: profile("ana@example.org", long)}).want(t, http.StatusSeeOther)
	for password, status := range map[string]int{long: http.StatusOK, long[:80] + "B": http.StatusUnauthorized} {
		form := credentials("ana@example.org", password)
		p.send(t, call{method: "POST", path: "/login", form: form, header: acceptJSON}).want(t, status)
	}
	u, err := p.store.User(t.Context(), "ana@example.org")
	if err != nil || bytes.Contains(u.PasswordHash, []byte(long)) || !bytes.HasPrefix(u.PasswordHash, []byte("$2a$")) {
		t.Errorf("stored as %s (%v)", u.PasswordHash, err)
	}
}

// Values of a wrong type, as database operators are, never reach the store; the answer names the field.
func TestOperatorInjection(t *testing.T) {
	p := start(t)
	addUser(t, p.store, "ana@example.org")
	cookie := addSession(t, p.store, "ana@example.org")
	for _, test := range []struct{ method, path, json, field string }{
		{"POST", "/login", `{"email":{"$gt":""},"password":"x"}`, "email"},
		{"POST", "/login", `{"email":"ana@example.org","password":{"$ne":null}}`, "password"},
		{"POST", "/signup", `{"email":["a@b.c"],"password":"x"}`, "email"},
		{"POST", "/signup", `{"email":"a@b.c","nombre":{"$where":"1"}}`, "nombre"},
		{"POST", "/api/productos", `{"nombre":{"$ne":1},"precio":1,"foto":"https://a.b/c"}`, "nombre"},
		{"POST", "/api/productos", `{"nombre":"a","precio":{"$gt":0},"foto":"https://a.b/c"}`, "precio"},
		{"POST", "/api/productos", `{"nombre":"a","precio":"NaN","foto":"https://a.b/c"}`, "precio"},
		{"POST", "/api/productos", `{"nombre":"a","precio":-1,"foto":"https://a.b/c"}`, "precio"},
		{"POST", "/api/productos", `{"nombre":"a","precio":1e400,"foto":"https://a.b/c"}`, "precio"},
		{"POST", "/api/productos", `{"nombre":"a","precio":1,"foto":"javascript:alert(1)"}`, "foto"},
		{"POST", "/api/productos", `{"nombre":"` + strings.Repeat("a", 101) + `","precio":1,"foto":"https://a.b/c"}`, "nombre"},
		{"PUT", "/api/productos/1", `{"nombre":"a\r\nb","precio":1,"foto":"https://a.b/c"}`, "nombre"},
		{"PUT", "/api/productos/1", `{"nombre":"a\u0000","precio":1,"foto":"https://a.b/c"}`, "nombre"},
		{"POST", "/api/productos", `[]`, ""},
		{"POST", "/api/productos", `{"nombre":"a"}{}`, ""},
		{"POST", "/api/productos", `null`, ""},
	} {
		e := p.send(t, call{method: test.method, path: test.path, cookie: cookie, json: test.json}).
			want(t, http.StatusBadRequest).jsonError(t)
		if e.Campo != test.field || e.Error != codeInvalid {
			t.Errorf("%s: %+v", test.json, e)
		}
	}
	kind := map[string]string{"Content-Type": "application/x-www-form-urlencoded"}
	for _, form := range []string{
		"email[$gt]=&password=x", "users[99999999]=x", "users%5B99999999%5D=x", "email=a&email=b",
	} {
		e := p.send(t, call{method: "POST", path: "/login", body: form, header: kind}).
			want(t, http.StatusBadRequest).jsonError(t)
		if e.Campo == "" {
			t.Errorf("%s: %+v", form, e)
		}
	}
	for _, path := range []string{"/?users[99999999]=x", "/api/productos?id[$ne]=1", "/api/randoms?cant[]=5", "/info?a%5Bb=1"} {
		p.send(t, call{path: path, cookie: cookie}).want(t, http.StatusBadRequest).jsonError(t)
	}
}

// Users' input is shown as text everywhere.
func TestCrossSiteScripting(t *testing.T) {
	p := start(t)
	addUser(t, p.store, "ana@example.org")
	cookie := addSession(t, p.store, "ana@example.org")
	const attack = `"><script>alert(1)</script>`

	a := p.send(t, call{method: "POST", path: "/api/productos", cookie: cookie,
		form: url.Values{"nombre": {attack}, "precio": {"1"}, "foto": {"https://example.org/a.png"}}}).want(t, http.StatusCreated)
	if !strings.HasPrefix(a.Header.Get("Content-Type"), "application/json") || strings.Contains(a.body, "<script") {
		t.Errorf("%v %s", a.Header, a.body)
	}
	html := map[string]string{"Accept": "text/html"}
	form := profile("ana@example.org", "x")
	form.Set("nombre", attack)
	for name, a := range map[string]response{
		"a redisplayed form": p.send(t, call{method: "POST", path: "/signup", form: form}).want(t, http.StatusBadRequest),
		"a path not found":   p.send(t, call{path: "/" + url.PathEscape(attack), header: html}),
		"the application":    p.send(t, call{path: "/", cookie: cookie}).want(t, http.StatusOK),
	} {
		if strings.Contains(a.body, "<script>") {
			t.Errorf("%s: %s", name, a.body)
		}
		policy := a.Header.Get("Content-Security-Policy")
		if !strings.Contains(policy, "default-src 'none'") || strings.Contains(policy, "unsafe") ||
			a.Header.Get("X-Content-Type-Options") != "nosniff" {
			t.Errorf("%s: %v", name, a.Header)
		}
	}
}

// No redirect leads to another site.
func TestOpenRedirects(t *testing.T) {
	p := start(t)
	addUser(t, p.store, "ana@example.org")
	html := map[string]string{"Accept": "text/html", "Host": "evil.example", "X-Forwarded-Host": "evil.example"}
	for _, c := range []call{
		{path: "/"}, {path: "/?next=https://evil.example"}, {path: "//evil.example/"}, {path: "/\\evil.example"},
		{path: "/logout"}, {path: "/login?next=//evil.example"}, {path: "/signup"}, {path: "/info"}, {path: "/nowhere"},
		{method: "POST", path: "/login?next=https://evil.example", form: anasLogin},
		{method: "POST", path: "/login?next=https://evil.example", form: credentials("ana@example.org", "wrong")},
	} {
		c.header = html
		a := p.send(t, c)
		location := a.Header.Get("Location")
		if location != "" && !slices.Contains([]string{"/", "/login", "/faillogin"}, location) {
			t.Errorf("%s leads to %q", c.path, location)
		}
		if c.path != "//evil.example/" && c.path != "/\\evil.example" && strings.Contains(a.body, "evil.example") {
			t.Errorf("%s shows the Host that was sent: %s", c.path, a.body)
		}
	}
}

// A line break in a request's path or query never begins a header of the answer, and malformed requests are rejected.
func TestHeaderInjection(t *testing.T) {
	p := startProcess(t, t.TempDir(), Config{TrustedProxies: []string{"127.0.0.1"}})
	for _, path := range []string{
		"/%0d%0aX-Evil:1", "/login%0d%0aX-Evil:1", "/assets/%0d%0aX-Evil:1", "/api/randoms?cant=%0d%0aX-Evil:1",
		"/api/productos/%0d%0aX-Evil:1",
	} {
		if a := p.send(t, call{path: path}); a.Header.Get("X-Evil") != "" || a.StatusCode < 400 {
			t.Errorf("%s: %d %v", path, a.StatusCode, a.Header)
		}
	}
	for name, request := range map[string]string{
		"two lengths": "POST /login HTTP/1.1\r\nHost: x\r\nContent-Length: 4\r\nContent-Length: 5\r\n\r\nabcd",
		"length and chunk": "POST /login HTTP/1.1\r\nHost: x\r\nContent-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n" +
			"0\r\n\r\nGET /x",
		"bare line feed": "GET /healthz HTTP/1.1\r\nHost: x\r\nA: b\nX-Evil: 1\rc\r\n\r\n",
		"no version":     "GET /healthz\r\n\r\n",
	} {
		conn, err := net.Dial("tcp", strings.TrimPrefix(p.url, "http://"))
		if err != nil {
			t.Fatal(err)
		}
		answer := raw(t, conn, request)
		conn.Close()
		if !strings.HasPrefix(answer, "HTTP/1.1 4") || !strings.Contains(answer, "X-Balanza-Pid: ") ||
			!strings.Contains(answer, "Connection: close") || strings.Count(answer, "HTTP/1.1") != 1 {
			t.Errorf("%s: %s", name, answer)
		}
	}
}

// Bodies that are too large or compressed are rejected before they use memory.
func TestLargeBodies(t *testing.T) {
	p := start(t)
	// The large one exceeds what the kernel buffers, so the server answers while the client is sending.
	for _, size := range []int{limits.Default().Body + 1, 16 << 20} {
		e := p.send(t, call{method: "POST", path: "/login", body: strings.Repeat("a", size)}).
			want(t, http.StatusRequestEntityTooLarge).jsonError(t)
		if e.Error != codeInvalid {
			t.Errorf("%+v", e)
		}
	}
	var bomb bytes.Buffer
	z := gzip.NewWriter(&bomb)
	_, _ = io.CopyN(z, zeros{}, 20<<20)
	z.Close()
	for _, encoding := range []string{"gzip", "deflate", "br", "identity, gzip"} {
		p.send(t, call{method: "POST", path: "/login", body: bomb.String(),
			header: map[string]string{"Content-Encoding": encoding, "Content-Type": "application/json"}}).
			want(t, http.StatusUnsupportedMediaType).jsonError(t)
	}
	a := p.send(t, call{path: "/info", header: map[string]string{"X-Long": strings.Repeat("a", 2*limits.Default().Header)}})
	a.want(t, http.StatusRequestHeaderFieldsTooLarge).jsonError(t)
}

type zeros struct{}

func (zeros) Read(b []byte) (int, error) { clear(b); return len(b), nil }

// While the store is down, routes without it work and all others answer 503.
func TestStoreDown(t *testing.T) {
	v := serve(t, siteWithoutStore(t, Config{}), listen(t))
	cookie := &http.Cookie{Name: "balanza", Value: strings.Repeat("A", 43)}
	for path, status := range map[string]int{
		"/info": 200, "/info?format=json": 200, "/api/randoms?cant=10": 200, "/healthz": 200, "/readyz": 200, "/metrics": 200,
		"/login": 200, "/signup": 200, "/randoms": 200, "/productos-test": 200, "/api/productos-test": 200, "/nowhere": 404,
		"/": 503, "/api/productos": 503,
	} {
		a := v.send(t, call{path: path, cookie: cookie}).want(t, status)
		if status == 503 && (a.jsonError(t).Error != codeUnavailable || a.Header.Get("Retry-After") == "") {
			t.Errorf("%s: %s", path, a.body)
		}
	}
	v.send(t, call{method: "POST", path: "/login", form: credentials("a@b.c", "x")}).want(t, http.StatusServiceUnavailable)
	html := map[string]string{"Accept": "text/html"}
	if a := v.send(t, call{path: "/", cookie: cookie, header: html}); a.StatusCode != 503 || !strings.Contains(a.body, "<html") {
		t.Errorf("%d %s", a.StatusCode, a.body)
	}
}

// An access extends a session to ten minutes; an expired session is not accepted.
func TestSessionExtension(t *testing.T) {
	p := start(t)
	addUser(t, p.store, "ana@example.org")
	cookie := addSession(t, p.store, "ana@example.org")
	p.send(t, call{path: "/", cookie: cookie}).want(t, http.StatusOK)
	session, err := p.store.Session(t.Context(), store.HashToken(cookie.Value), time.Now())
	if err != nil || time.Until(session.Expires) < sessionLength-time.Minute {
		t.Errorf("ends at %v (%v)", session.Expires, err)
	}
	if err := p.store.TouchSession(t.Context(), store.HashToken(cookie.Value), time.Now()); err != nil {
		t.Fatal(err)
	}
	p.send(t, call{path: "/", cookie: cookie}).want(t, http.StatusSeeOther)
}

// countingStore notes the calls that a log-in makes.
type countingStore struct {
	store.Store
	mu    sync.Mutex
	calls []string
}

func (s *countingStore) wrap(inner store.Store) store.Store {
	s.Store = inner
	return s
}

func (s *countingStore) note(call string) store.Store {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.calls = append(s.calls, call)
	return s.Store
}

func (s *countingStore) Count(ctx context.Context, key string, n int, expires time.Time) (int, error) {
	if n == 0 {
		return s.note("Count of 0").Count(ctx, key, n, expires)
	}
	return s.note("Count").Count(ctx, key, n, expires)
}

func (s *countingStore) User(ctx context.Context, email string) (store.User, error) {
	return s.note("User").User(ctx, email)
}

func (s *countingStore) Session(ctx context.Context, id string, now time.Time) (store.Session, error) {
	return s.note("Session").Session(ctx, id, now)
}

func (s *countingStore) CreateSession(ctx context.Context, session store.Session) error {
	return s.note("CreateSession").CreateSession(ctx, session)
}

func (s *countingStore) TouchSession(ctx context.Context, id string, expires time.Time) error {
	return s.note("TouchSession").TouchSession(ctx, id, expires)
}

func (s *countingStore) DeleteSession(ctx context.Context, id string) error {
	return s.note("DeleteSession").DeleteSession(ctx, id)
}

func (s *countingStore) SetDevices(ctx context.Context, email string, devices []string) error {
	return s.note("SetDevices").SetDevices(ctx, email, devices)
}

// take returns the calls since it was called before.
func (s *countingStore) take() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	calls := s.calls
	s.calls = nil
	return calls
}

// A log-in makes at most five calls of the store, and from a browser that is new to the account nine, of which three pairs are
// made at the same time. On MongoDB each of them is one round trip (mongostore's TestRoundTrips).
func TestLoginRoundTrips(t *testing.T) {
	st := &countingStore{}
	p := startOn(t, t.TempDir(), Config{Store: st}, listen(t))
	addUser(t, p.store, "ana@example.org")
	login := call{method: "POST", path: "/login", form: credentials("ana@example.org", knownPassword)}
	device := p.send(t, login).want(t, http.StatusSeeOther).device(t)
	if calls := st.take(); len(calls) == 0 || len(calls) > 9 {
		t.Errorf("the first log-in called %v", calls)
	}
	login.cookie = device
	p.send(t, login).want(t, http.StatusSeeOther)
	if calls := st.take(); len(calls) == 0 || len(calls) > 5 {
		t.Errorf("the second log-in called %v", calls)
	}
}

// skewedStore is a store whose server's clock differs from this machine's.
type skewedStore struct {
	store.Store
	skew time.Duration
}

func (s *skewedStore) wrap(inner store.Store) store.Store {
	s.Store = inner
	return s
}

func (s *skewedStore) Now(ctx context.Context) (time.Time, error) {
	now, err := s.Store.Now(ctx)
	return now.Add(s.skew), err
}

// A machine whose clock is wrong neither logs users out nor deletes the sessions of others, and gives nobody more time.
func TestClockSkew(t *testing.T) {
	for _, skew := range []time.Duration{-11 * time.Minute, 11 * time.Minute} {
		p := startOn(t, t.TempDir(), Config{Store: &skewedStore{skew: skew}}, listen(t))
		addUser(t, p.store, "ana@example.org")
		answer := p.send(t, call{method: http.MethodPost, path: "/login", form: url.Values{
			"email": {"ana@example.org"}, "password": {knownPassword},
		}}).want(t, http.StatusSeeOther)
		cookie := answer.session(t)
		id := store.HashToken(cookie.Value)
		page := p.open(t, cookie)
		page.next(t, "chat")
		if err := p.sweepOnce(t.Context()); err != nil {
			t.Fatal(err)
		}
		p.endExpired(t.Context(), []string{id}, map[string][]*client{id: p.clients.all()})
		p.send(t, call{path: "/", cookie: cookie}).want(t, http.StatusOK)
		page.write(t, `{"text":"hola","clientId":"1"}`)
		page.next(t, "ack")
		ends := time.Now().Add(skew + sessionLength)
		session, err := p.store.Session(t.Context(), id, time.Now().Add(skew))
		if err != nil || session.Expires.Sub(ends).Abs() > time.Minute {
			t.Errorf("skew %v: the session ends at %v, want %v; %v", skew, session.Expires, ends, err)
		}
	}
}

// A proxy that is neither an address nor a range nor a host name is an error at the start.
func TestTrustedProxies(t *testing.T) {
	for _, proxy := range []string{"", "10.0.0.0/33", "10.0.0", "a..b", "-nginx", "nginx:80", "http://nginx", "*.example.org", "ngínx"} {
		if _, err := New(Config{TrustedProxies: []string{proxy}}); err == nil {
			t.Errorf("%q was accepted", proxy)
		}
	}
}

// Both languages have the same texts, and every text that a page names exists.
func TestTexts(t *testing.T) {
	all := loadTexts()
	es, en := slices.Sorted(maps.Keys(all["es"])), slices.Sorted(maps.Keys(all["en"]))
	if !slices.Equal(es, en) {
		t.Errorf("es has %d texts, en %d:\n%v\n%v", len(es), len(en), es, en)
	}
	files, _ := pageFiles.ReadDir("pages")
	for _, file := range files {
		content, _ := pageFiles.ReadFile("pages/" + file.Name())
		for _, part := range strings.Split(string(content), `.T "`)[1:] {
			key, _, _ := strings.Cut(part, `"`)
			if _, ok := all["es"][key]; !ok {
				t.Errorf("%s names %q, which has no text", file.Name(), key)
			}
		}
	}
}
