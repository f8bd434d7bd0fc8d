package web

import (
	"encoding/json"
	"errors"
	"log/slog"
	"maps"
	"net"
	"net/http"
	"os"
	"runtime"
	"strconv"
	"strings"
	"testing"

	"github.com/valyala/fasthttp"

	"balanza/services/metrics"
	"balanza/services/store"
)

// /info has the same properties as a page and as JSON.
func TestInfo(t *testing.T) {
	p := start(t)
	for _, c := range []call{
		{path: "/info", header: acceptJSON},
		{path: "/info?format=json"},
		{path: "/info/", header: map[string]string{"Accept": "application/json, text/html;q=0.5"}},
	} {
		a := p.send(t, c).want(t, http.StatusOK)
		var i Info
		if err := json.Unmarshal([]byte(a.body), &i); err != nil {
			t.Fatal(err)
		}
		executable, _ := os.Executable()
		folder, _ := os.Getwd()
		if len(i.Arguments) != len(os.Args)-1 || i.Executable != executable || i.Platform != runtime.GOOS ||
			i.Pid != os.Getpid() || i.Version != runtime.Version() || i.Folder != folder ||
			i.RSS < 1<<20 || i.CPUs != runtime.NumCPU() ||
			i.Mode != "FORK" || i.Worker != 0 || i.Server != "test:1" || i.Uptime < 0 {
			t.Errorf("%+v", i)
		}
	}
	for _, accept := range []string{"", "*/*", "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"} {
		a := p.send(t, call{path: "/info", header: map[string]string{"Accept": accept}}).want(t, http.StatusOK)
		if !strings.Contains(a.body, "<html lang=\"es\"") || !strings.Contains(a.body, strconv.Itoa(os.Getpid())) {
			t.Errorf("accept %q: %s", accept, a.body)
		}
	}
}

// The page of /info has units and words for people, in the reader's language; the JSON has plain numbers.
func TestInfoForPeople(t *testing.T) {
	s := start(t).Site
	i := Info{
		Platform: "linux", Version: "go1.26.8", RSS: 13_000_000, Mode: "CLUSTER", Worker: 2, Uptime: 2*24*3600 + 3*60 + 14,
	}
	for lang, want := range map[string][]string{
		"en": {"Linux", ">1.26.8<", "12.4 MiB", "2 d 0 h 3 min 14 s", "A master and its workers (CLUSTER)", "worker 2", ">none<"},
		"es": {"Linux", ">1.26.8<", "12,4 MiB", "2 d 0 h 3 min 14 s", "Un maestro y sus workers (CLUSTER)", "worker 2", ">ninguno<"},
	} {
		page, err := s.render(lang, "info", Page{Data: infoPage{i, lang}})
		if err != nil {
			t.Fatal(err)
		}
		for _, text := range want {
			if !strings.Contains(string(page), text) {
				t.Errorf("%s: %q is not in %s", lang, text, page)
			}
		}
	}
	for seconds, want := range map[int64]string{0: "0 s", 59: "59 s", 194: "3 min 14 s", 3600: "1 h 0 min 0 s"} {
		if got := (infoPage{Info: Info{Uptime: seconds}}).UptimeText(); got != want {
			t.Errorf("%d s: %q, want %q", seconds, got, want)
		}
	}
	if got := (infoPage{}).Memory(); got != "" {
		t.Errorf("memory that is not known: %q", got)
	}
}

// All paths of the histogram answer, and a number that cannot be drawn is an error of its field.
func TestRandoms(t *testing.T) {
	p := start(t)
	for _, path := range []string{
		"/api/randoms", "/api/randoms/", "/test/randoms", "/test/randoms/", "/test/random", "/test/random/",
	} {
		a := p.send(t, call{path: path + "?cant=1000"}).want(t, http.StatusOK)
		var counts map[string]int
		if err := json.Unmarshal([]byte(a.body), &counts); err != nil {
			t.Fatal(err)
		}
		sum := 0
		for number, n := range counts {
			if v, err := strconv.Atoi(number); err != nil || v < 1 || v > 1000 || n < 1 {
				t.Errorf("%s was drawn %d times", number, n)
			}
			sum += n
		}
		if sum != 1000 {
			t.Errorf("%s: %d draws", path, sum)
		}
		if a.Header.Get("X-Balanza-Pid") != strconv.Itoa(os.Getpid()) || a.Header.Get("X-Balanza-Server") != "test:1" {
			t.Errorf("%v", a.Header)
		}
	}
	for _, cant := range []string{
		"0", "-1", "1.5", "1e3", "a", "", "1000000001", "99999999999999999999", "1&cant=2", "0x10", "%20",
	} {
		e := p.send(t, call{path: "/api/randoms?cant=" + cant}).want(t, http.StatusBadRequest).jsonError(t)
		if e.Campo != "cant" {
			t.Errorf("cant=%s: %+v", cant, e)
		}
	}
}

// A route that does not exist gets the course's JSON, or a page.
func TestNotFound(t *testing.T) {
	p := start(t)
	for _, test := range []struct{ method, path, header string }{
		{"GET", "/nowhere", "*/*"}, {"GET", "/nowhere", ""}, {"POST", "/nowhere?a=b", "application/json"},
		{"DELETE", "/info", "*/*"}, {"PATCH", "/api/productos/1", "*/*"}, {"GET", "/assets/nothing.js", "*/*"},
		{"OPTIONS", "/", "*/*"}, {"BREW", "/info", "*/*"},
	} {
		header := map[string]string{"Accept": test.header, "Accept-Language": "en"}
		a := p.send(t, call{method: test.method, path: test.path, header: header}).want(t, http.StatusNotFound)
		path, _, _ := strings.Cut(test.path, "?")
		want := `{"error":-2,"descripcion":"ruta ` + path + ` método ` + test.method + ` no implementada"}`
		if a.body != want || a.Header.Get("X-Balanza-Pid") == "" {
			t.Errorf("%s, want %s", a.body, want)
		}
	}
	header := map[string]string{"Accept": "text/html", "Accept-Language": "en-GB,en;q=0.9"}
	a := p.send(t, call{path: "/nowhere", header: header}).want(t, http.StatusNotFound)
	if !strings.Contains(a.body, `<html lang="en"`) {
		t.Errorf("%s", a.body)
	}
}

// Every page exists in both languages and has nothing inline, which the pages' own policy would block.
func TestPages(t *testing.T) {
	p := start(t)
	addUser(t, p.store, "ana@example.org")
	cookie := addSession(t, p.store, "ana@example.org")
	for _, path := range []string{
		"/", "/login", "/signup", "/register", "/faillogin", "/failsignup", "/info", "/productos-test", "/account", "/account/deleted",
		"/logout", "/panel",
	} {
		for _, language := range []string{"es", "en"} {
			header := map[string]string{"Accept-Language": language + "-AR"}
			a := p.send(t, call{path: path, cookie: cookie, header: header}).want(t, http.StatusOK)
			complete := strings.HasSuffix(strings.TrimSpace(a.body), "</html>")
			if !strings.Contains(a.body, `<html lang="`+language+`"`) || !complete {
				t.Errorf("%s in %s: %s", path, language, a.body)
			}
			for _, inline := range []string{"<style", "style=", "onclick=", "<script>", "ZgotmplZ", "%!"} {
				if strings.Contains(a.body, inline) {
					t.Errorf("%s holds %s", path, inline)
				}
			}
		}
	}
	p.send(t, call{path: "/login", header: map[string]string{"Accept-Language": "fr"}}).want(t, http.StatusOK)
}

// Assets are cacheable for ever under the address with their hash, and revalidated under any other.
func TestAssets(t *testing.T) {
	p := start(t)
	address, err := p.assets.url("home.js")
	if err != nil {
		t.Fatal(err)
	}
	a := p.send(t, call{path: address}).want(t, http.StatusOK)
	if a.Header.Get("Cache-Control") != "public, max-age=31536000, immutable" ||
		a.Header.Get("Content-Type") != "text/javascript; charset=utf-8" {
		t.Errorf("%v", a.Header)
	}
	old := p.send(t, call{path: "/assets/home.js?v=old"}).want(t, http.StatusOK)
	if old.Header.Get("Cache-Control") != "no-cache" || old.body != a.body {
		t.Errorf("%v", old.Header)
	}
	revalidate := map[string]string{"If-None-Match": old.Header.Get("ETag")}
	cached := p.send(t, call{path: "/assets/home.js", header: revalidate}).want(t, http.StatusNotModified)
	if cached.body != "" {
		t.Errorf("%q", cached.body)
	}
	if _, err := p.assets.url("nothing.js"); err == nil {
		t.Error("an asset that does not exist has an address")
	}
}

// A user signs up, logs in and logs out, as a browser does and as a program does.
func TestUsers(t *testing.T) {
	p := start(t)
	cookie := p.send(t, call{method: "POST", path: "/signup", form: profile(" Ana@Example.org ", "long enough")}).
		want(t, http.StatusSeeOther).session(t)
	home := p.send(t, call{path: "/", cookie: cookie}).want(t, http.StatusOK)
	if !strings.Contains(home.body, "ana@example.org") {
		t.Errorf("%s", home.body)
	}
	// The same email in another case is the same user.
	second := p.send(t, call{method: "POST", path: "/register", form: profile("ANA@example.ORG", "something else")}).
		want(t, http.StatusSeeOther)
	if second.Header.Get("Location") != "/failsignup" {
		t.Errorf("%v", second.Header)
	}
	taken := profile("ana@example.org", "something else")
	e := p.send(t, call{method: "POST", path: "/signup", header: acceptJSON, form: taken}).
		want(t, http.StatusConflict).jsonError(t)
	if e.Error != codeTaken || e.Campo != "email" {
		t.Errorf("%+v", e)
	}
	wrong := p.send(t, call{method: "POST", path: "/login", form: credentials("ana@example.org", "something else")}).
		want(t, http.StatusSeeOther)
	if wrong.Header.Get("Location") != "/faillogin" || len(wrong.Cookies()) != 0 {
		t.Errorf("%v", wrong.Header)
	}
	login := p.send(t, call{method: "POST", path: "/login", json: `{"email":"ANA@example.org","password":"long enough"}`}).
		want(t, http.StatusOK)
	if login.body != `{"email":"ana@example.org"}` {
		t.Errorf("%s", login.body)
	}
	p.send(t, call{method: "POST", path: "/logout", cookie: login.session(t)}).want(t, http.StatusOK)
	p.send(t, call{path: "/", cookie: login.session(t)}).want(t, http.StatusSeeOther)
	p.send(t, call{path: "/", cookie: cookie}).want(t, http.StatusOK)
	p.send(t, call{path: "/", header: acceptJSON}).want(t, http.StatusUnauthorized).jsonError(t)

	u, err := p.store.User(t.Context(), "ana@example.org")
	want := store.Author{ID: "ana@example.org", Nombre: "Ana", Apellido: "Paz", Edad: 30, Alias: "ana"}
	if err != nil || u.Author != want {
		t.Errorf("%+v (%v)", u.Author, err)
	}
}

// A form with an invalid field is shown with the typed values and names the field.
func TestInvalidProfiles(t *testing.T) {
	p := start(t)
	for field, values := range map[string][]string{
		"email":    {"", "ana", "a b@c.d", "Ana <a@b.c>", "a@b.c\r\nBcc: x@y.z", strings.Repeat("a", maxEmail) + "@b.c"},
		"password": {"", "short", "password1"},
		"nombre":   {"", strings.Repeat("a", 101), "a\nb", "\xff"},
		"apellido": {""},
		"edad":     {"", "0", "151", "1.5", "x", "-3"},
		"alias":    {"", strings.Repeat("a", 51)},
		"avatar":   {"javascript:alert(1)", "/a.png", "ftp://a/b", "https://"},
	} {
		for _, value := range values {
			form := profile("ana@example.org", "long enough")
			form.Set("alias", "lechuza")
			form.Set(field, value)
			e := p.send(t, call{method: "POST", path: "/signup", header: acceptJSON, form: form}).
				want(t, http.StatusBadRequest).jsonError(t)
			if e.Campo != field {
				t.Errorf("%s %q: %+v", field, value, e)
			}
			html := p.send(t, call{method: "POST", path: "/signup", form: form}).want(t, http.StatusBadRequest)
			if !strings.Contains(html.body, "aria-invalid") || field != "alias" && !strings.Contains(html.body, "lechuza") ||
				strings.Contains(html.body, "long enough") {
				t.Errorf("%s %q: %s", field, value, html.body)
			}
		}
	}
}

// The REST interface creates, reads, replaces and deletes products.
func TestProducts(t *testing.T) {
	p := start(t)
	addUser(t, p.store, "ana@example.org")
	cookie := addSession(t, p.store, "ana@example.org")
	if a := p.send(t, call{path: "/api/productos"}).want(t, http.StatusOK); a.body != "[]" {
		t.Errorf("%s", a.body)
	}
	const silla = `{"nombre":"Silla","precio":12.5,"foto":"https://example.org/silla.png","id":"mine","extra":[1]}`
	p.send(t, call{method: "POST", path: "/api/productos", json: silla}).want(t, http.StatusUnauthorized).jsonError(t)
	html := map[string]string{"Accept": "text/html"}
	browser := p.send(t, call{method: "POST", path: "/api/productos", json: silla, header: html})
	if browser.want(t, http.StatusSeeOther).Header.Get("Location") != "/login" {
		t.Errorf("%v", browser.Header)
	}

	var created, read store.Product
	a := p.send(t, call{method: "POST", path: "/api/productos", cookie: cookie, json: silla}).want(t, http.StatusCreated)
	err := json.Unmarshal([]byte(a.body), &created)
	if err != nil || created.Nombre != "Silla" || created.Precio != 12.5 || created.ID == "mine" {
		t.Fatalf("%s (%v)", a.body, err)
	}
	location := a.Header.Get("Location")
	a = p.send(t, call{path: location}).want(t, http.StatusOK)
	if err := json.Unmarshal([]byte(a.body), &read); err != nil || read != created {
		t.Errorf("%s (%v)", a.body, err)
	}
	mesa := strings.Replace(silla, "Silla", "Mesa", 1)
	p.send(t, call{method: "PUT", path: location, cookie: cookie, json: mesa}).want(t, http.StatusOK)
	if a := p.send(t, call{path: "/api/productos"}); !strings.Contains(a.body, "Mesa") || strings.Contains(a.body, "Silla") {
		t.Errorf("%s", a.body)
	}
	p.send(t, call{method: "DELETE", path: location, cookie: cookie}).want(t, http.StatusNoContent)
	for _, method := range []string{"GET", "PUT", "DELETE"} {
		e := p.send(t, call{method: method, path: location, cookie: cookie, json: silla}).want(t, http.StatusNotFound).jsonError(t)
		if e.Error != codeNotFound {
			t.Errorf("%s: %+v", method, e)
		}
	}
	p.send(t, call{path: "/api/productos/%00"}).want(t, http.StatusNotFound)
}

// The mock products are five, and different each time.
func TestMockProducts(t *testing.T) {
	p := start(t)
	var before string
	for range 2 {
		a := p.send(t, call{path: "/api/productos-test"}).want(t, http.StatusOK)
		var created []store.Product
		if err := json.Unmarshal([]byte(a.body), &created); err != nil || len(created) != mockCount || a.body == before {
			t.Fatalf("%s (%v)", a.body, err)
		}
		for _, m := range created {
			if m.ID == "" || m.Nombre == "" || m.Precio <= 0 || m.Foto == "" {
				t.Errorf("%+v", m)
			}
		}
		before = a.body
	}
	a := p.send(t, call{path: "/productos-test"}).want(t, http.StatusOK)
	if strings.Count(a.body, `src="data:image/svg`) != mockCount {
		t.Errorf("%s", a.body)
	}
}

// /metrics shows this process's metrics, or with Scrape those of all workers.
func TestMetrics(t *testing.T) {
	v := serve(t, siteWithoutStore(t, Config{}), listen(t))
	for range 3 {
		v.send(t, call{path: "/api/randoms?cant=1"})
	}
	v.send(t, call{path: "/api/randoms?cant=x"})
	v.send(t, call{path: "/healthz"})
	text := v.send(t, call{path: "/metrics"}).want(t, http.StatusOK).body
	for _, line := range []string{
		`balanza_http_requests_total{method="GET",route="/api/randoms",code="2xx"} 3`,
		`balanza_http_requests_total{method="GET",route="/api/randoms",code="4xx"} 1`,
		`balanza_http_request_duration_seconds_bucket{method="GET",route="/api/randoms",le="+Inf"} 4`,
		`balanza_http_request_duration_seconds_count{method="GET",route="/api/randoms"} 4`,
		"# TYPE balanza_http_request_duration_seconds histogram",
		`balanza_worker_requests_total{code="2xx"} 3`,
		"balanza_draws_in_flight 0",
		"balanza_draws_rejected_total 0",
		"balanza_websockets 0",
	} {
		if !strings.Contains(text, line+"\n") {
			t.Errorf("no line %s in\n%s", line, text)
		}
	}
	whole := serve(t, siteWithoutStore(t, Config{Scrape: func() (string, error) { return "all 1\n", nil }}), listen(t))
	if a := whole.send(t, call{path: "/metrics"}); a.body != "all 1\n" || a.Header.Get("Content-Type") != metrics.ContentType {
		t.Errorf("%s %q", a.Header.Get("Content-Type"), a.body)
	}
	silent := serve(t, siteWithoutStore(t, Config{Scrape: func() (string, error) { return "", errors.New("no") }}), listen(t))
	silent.send(t, call{path: "/metrics"}).want(t, http.StatusServiceUnavailable)
}

// The counters change only when a request was answered; a health check is none.
func TestAnswered(t *testing.T) {
	s := siteWithoutStore(t, Config{})
	v := serve(t, s, listen(t))
	v.send(t, call{path: "/healthz"})
	before, counters := s.Answered(), s.Counters()
	if err := s.Healthy(); err != nil {
		t.Fatal(err)
	}
	if s.Answered() != before || !maps.Equal(s.Counters(), counters) {
		t.Error("a health check was counted as a request")
	}
	if n := s.Requests(); n != 0 {
		t.Errorf("%d requests of clients, and there was none", n)
	}
	v.send(t, call{path: "/healthz"})
	if n := s.Answered(); n != before+1 {
		t.Errorf("%d answers were %d before one more", n, before)
	}
}

// A panic while a request that cannot be parsed is answered fails this request, and the process goes on.
func TestPanicOnUnreadableRequest(t *testing.T) {
	s := siteWithoutStore(t, Config{})
	info := s.info
	s.info = nil // the headers of the next answer cannot be set
	ln := listen(t)
	v := serve(t, s, ln)
	conn, err := net.Dial("tcp", ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if answer := raw(t, conn, "GET /healthz\r\n\r\n"); !strings.HasPrefix(answer, "HTTP/1.1 500 ") {
		t.Errorf("%s", answer)
	}
	s.info = info
	v.send(t, call{path: "/healthz"}).want(t, http.StatusOK)
}

// A panic in a handler fails its own request, and the process goes on.
func TestPanic(t *testing.T) {
	s := siteWithoutStore(t, Config{})
	s.log = slog.New(slog.DiscardHandler)
	var c fasthttp.RequestCtx
	c.Init(&fasthttp.Request{}, nil, nil)
	s.recoverPanics(func(*fasthttp.RequestCtx) { panic("on purpose") })(&c)
	if c.Response.StatusCode() != http.StatusInternalServerError || len(c.Response.Header.Peek("X-Balanza-Pid")) == 0 {
		t.Errorf("%s", &c.Response)
	}
}
