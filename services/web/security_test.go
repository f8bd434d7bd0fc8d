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
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/fasthttp/websocket"
	"golang.org/x/crypto/bcrypt"
)

var anasLogin = credentials("ana@example.org", knownPassword)

// TestFixation: neither an id that somebody planted nor an earlier session becomes the session of who logs in.
func TestFixation(t *testing.T) {
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

// TestLogOutEverywhere: the cookie of a session that ended on one process is refused by another, which closes its
// websocket.
func TestLogOutEverywhere(t *testing.T) {
	folder := t.TempDir()
	one, other := startProcess(t, folder, Config{}), startProcess(t, folder, Config{})
	addUser(t, one.store, "ana@example.org")
	cookie := addSession(t, one.store, "ana@example.org")
	ws := other.open(t, cookie)
	ws.next(t, "chat")
	bye := one.send(t, call{method: "POST", path: "/logout", cookie: cookie}).want(t, http.StatusOK)
	if !strings.Contains(bye.body, "Hasta luego") || !strings.Contains(bye.body, "ana@example.org") {
		t.Errorf("the goodbye: %s", bye.body)
	}
	if code := ws.closed(t); code != websocket.ClosePolicyViolation {
		t.Errorf("the websocket was closed with %d", code)
	}
	other.send(t, call{path: "/", cookie: cookie}).want(t, http.StatusSeeOther)
	other.send(t, call{method: "POST", path: "/api/productos", cookie: cookie, json: "{}"}).want(t, http.StatusUnauthorized)
}

// TestSessionDeleted: a session deleted in the database is over at the next request, and its websockets end.
func TestSessionDeleted(t *testing.T) {
	p := start(t)
	addUser(t, p.store, "ana@example.org")
	cookie := addSession(t, p.store, "ana@example.org")
	ws := p.open(t, cookie)
	ws.next(t, "chat")
	if err := p.store.DeleteSession(t.Context(), cookie.Value); err != nil {
		t.Fatal(err)
	}
	p.send(t, call{path: "/", cookie: cookie}).want(t, http.StatusSeeOther)
	if code := ws.closed(t); code != websocket.ClosePolicyViolation {
		t.Errorf("the websocket was closed with %d", code)
	}
}

// TestCookie: the flags of the session cookie, and whom the site believes that TLS was used.
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
	// What is meant for TLS alone is not taken without.
	direct.send(t, call{path: "/", cookie: secure}).want(t, http.StatusSeeOther)
}

// TestCrossSite: no route that changes something does so for another site's page.
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
	for _, route := range []string{"POST /login", "POST /signup", "POST /register", "POST /logout", "GET /logout",
		"POST /api/productos", "PUT /api/productos/x", "DELETE /api/productos/x"} {
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

// TestCrossSiteWebsocket: a websocket is for this site's pages alone, and for users.
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

// TestWhoIsThere: an unknown email and a wrong password get the same answer, and cost the same work.
func TestWhoIsThere(t *testing.T) {
	p := start(t)
	addUser(t, p.store, "ana@example.org")
	for _, header := range []map[string]string{{}, jsonPlease} {
		var answers []string
		for _, email := range []string{"ana@example.org", "eva@example.org"} {
			a := p.send(t, call{method: "POST", path: "/login", header: header, form: credentials(email, "not the one")})
			a.Header.Del("Date")
			answers = append(answers, fmt.Sprint(a.StatusCode, a.Header, a.body))
		}
		if answers[0] != answers[1] {
			t.Errorf("%s\nand\n%s", answers[0], answers[1])
		}
	}
	if cost, err := bcrypt.Cost(dummyHash); cost != hashCost || err != nil {
		t.Errorf("comparing with nobody's hash costs %d (%v), with a user's %d", cost, err, hashCost)
	}
	full := hashers(make(chan struct{})) // nobody gets a turn: who needs none is serverFrame apart
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	for name, hash := range map[string][]byte{"a user": dummyHash, "nobody": nil} {
		if _, err := full.match(ctx, hash, "x"); err != errBusy {
			t.Errorf("%s's password was compared without computing a hash: %v", name, err)
		}
	}
	if ok, err := newHashers().match(t.Context(), nil, "nobody's"); ok || err != nil {
		t.Errorf("nobody logged in: %v %v", ok, err)
	}
}

// TestBruteForce: guesses are counted over all processes, and do not lock out who comes from elsewhere.
func TestBruteForce(t *testing.T) {
	folder := t.TempDir()
	trusting := Config{TrustedProxies: []string{"127.0.0.1"}}
	processes := []*process{startProcess(t, folder, trusting), startProcess(t, folder, trusting)}
	addUser(t, processes[0].store, "ana@example.org")
	login := func(n int, address, password string) answered {
		return processes[n%2].send(t, call{method: "POST", path: "/login", form: credentials("ana@example.org", password),
			header: map[string]string{"X-Forwarded-For": "203.0.113.1, " + address, "Accept": "application/json"}})
	}
	// The count begins again with each window: none may end meanwhile.
	if left := time.Until(time.Now().Truncate(loginWindow).Add(loginWindow)); left < 20*time.Second {
		time.Sleep(left)
	}
	for n := range maxLoginsPerEmail {
		login(n, "192.0.2.1", "guess").want(t, http.StatusUnauthorized)
	}
	a := login(0, "192.0.2.1", "guess").want(t, http.StatusTooManyRequests)
	if a.Header.Get("Retry-After") == "" || a.jsonError(t).Error != codeTooMany {
		t.Errorf("%v %s", a.Header, a.body)
	}
	login(0, "192.0.2.1", knownPassword).want(t, http.StatusTooManyRequests)
	login(1, "192.0.2.1", knownPassword).want(t, http.StatusTooManyRequests)
	for range maxLoginsPerEmail + 2 { // what succeeds is not counted
		login(0, "198.51.100.7", knownPassword).want(t, http.StatusOK)
	}

	processes = append(processes[:0], startProcess(t, folder, Config{}), startProcess(t, folder, Config{}))
	for n := range maxLoginsPerEmail { // who is no proxy cannot say who it is
		login(n, fmt.Sprintf("192.0.2.%d", n), "guess").want(t, http.StatusUnauthorized)
	}
	login(0, "203.0.113.9", knownPassword).want(t, http.StatusTooManyRequests)
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

// TestPasswords: which are taken, and that every character of a long one counts.
func TestPasswords(t *testing.T) {
	for password, ok := range map[string]bool{
		"4 chars.": true, "ñandúes!": true, strings.Repeat("x y", 22): true, strings.Repeat("ab", 128): true,
		"7 chars": false, "": false, strings.Repeat("ab", 129): false, "xxxxxxxxxxxx": false, "\xff\xfe123456": false,
		"password": false, "QWERTY123": false, "contraseña": false, "ana@example.org": false,
	} {
		if err := checkPassword(password, "ana@example.org"); (err == nil) != ok {
			t.Errorf("%q: %v", password, err)
		}
	}
	p := start(t)
	long := strings.Repeat("0123456789", 8) + "A" // 81 bytes: bcrypt sees 72 of them
	p.send(t, call{method: "POST", path: "/signup", form: profile("ana@example.org", long)}).want(t, http.StatusSeeOther)
	for password, status := range map[string]int{long: http.StatusOK, long[:80] + "B": http.StatusUnauthorized} {
		form := credentials("ana@example.org", password)
		p.send(t, call{method: "POST", path: "/login", form: form, header: jsonPlease}).want(t, status)
	}
	u, err := p.store.User(t.Context(), "ana@example.org")
	if err != nil || bytes.Contains(u.PasswordHash, []byte(long)) || !bytes.HasPrefix(u.PasswordHash, []byte("$2a$")) {
		t.Errorf("kept as %s (%v)", u.PasswordHash, err)
	}
}

// TestOperators: what is no plain value reaches no database; the answer names the field.
func TestOperators(t *testing.T) {
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

// TestScripts: what users write is text everywhere.
func TestScripts(t *testing.T) {
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
	for name, a := range map[string]answered{
		"a form shown again": p.send(t, call{method: "POST", path: "/signup", form: form}).want(t, http.StatusBadRequest),
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

// TestRedirects: nobody is sent to another site.
func TestRedirects(t *testing.T) {
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

// TestHeaders: a line break sent in any place begins no header.
func TestHeaders(t *testing.T) {
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

// TestLargeBodies: what is too large or compressed is refused before it costs memory.
func TestLargeBodies(t *testing.T) {
	p := start(t)
	e := p.send(t, call{method: "POST", path: "/login", body: strings.Repeat("a", maxBody+1)}).
		want(t, http.StatusRequestEntityTooLarge).jsonError(t)
	if e.Error != codeInvalid {
		t.Errorf("%+v", e)
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
	a := p.send(t, call{path: "/info", header: map[string]string{"X-Long": strings.Repeat("a", 2*maxHeader)}})
	a.want(t, http.StatusRequestHeaderFieldsTooLarge).jsonError(t)
}

type zeros struct{}

func (zeros) Read(b []byte) (int, error) { clear(b); return len(b), nil }

// TestStoreDown: what needs no store goes on, the rest says 503.
func TestStoreDown(t *testing.T) {
	v := serve(t, bare(t, Config{}), listen(t))
	cookie := &http.Cookie{Name: "balanza", Value: strings.Repeat("A", 43)}
	for path, status := range map[string]int{
		"/info": 200, "/info?format=json": 200, "/api/randoms?cant=10": 200, "/healthz": 200, "/readyz": 200, "/metrics": 200,
		"/login": 200, "/signup": 200, "/productos-test": 200, "/api/productos-test": 200, "/nowhere": 404,
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

// TestRolling: an access moves the end of a session to ten minutes later; what expired is over.
func TestRolling(t *testing.T) {
	p := start(t)
	addUser(t, p.store, "ana@example.org")
	cookie := addSession(t, p.store, "ana@example.org")
	p.send(t, call{path: "/", cookie: cookie}).want(t, http.StatusOK)
	session, err := p.store.Session(t.Context(), cookie.Value, time.Now())
	if err != nil || time.Until(session.Expires) < sessionLength-time.Minute {
		t.Errorf("ends at %v (%v)", session.Expires, err)
	}
	if err := p.store.TouchSession(t.Context(), cookie.Value, time.Now()); err != nil {
		t.Fatal(err)
	}
	p.send(t, call{path: "/", cookie: cookie}).want(t, http.StatusSeeOther)
}

// TestTrustedProxies: a list that cannot be meant is refused at start.
func TestTrustedProxies(t *testing.T) {
	for _, proxy := range []string{"", "nginx", "10.0.0.0/33", "10.0.0"} {
		if _, err := New(Config{TrustedProxies: []string{proxy}}); err == nil {
			t.Errorf("%q was taken", proxy)
		}
	}
}

// TestTexts: both languages say the same, and every text that a page asks for is there.
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
				t.Errorf("%s asks for %q, which has no text", file.Name(), key)
			}
		}
	}
}
