package web

import (
	"encoding/json"
	"net/http"
	"strings"
	"testing"
)

// A picture is an https address of another site; none of this site, in whatever spelling, and none of a private network.
func TestPictures(t *testing.T) {
	p := start(t)
	addUser(t, p.store, "ana@example.org")
	cookie := addSession(t, p.store, "ana@example.org")
	send := func(host, foto string) response {
		encoded, _ := json.Marshal(map[string]any{"nombre": "a", "precio": 1, "foto": foto})
		return p.send(t, call{method: "POST", path: "/api/productos", cookie: cookie, header: map[string]string{"Host": host},
			json: string(encoded)})
	}
	for _, foto := range []string{
		"http://example.org/a.png", "//example.org/a.png", "https:example.org", "https:///example.org/a.png", "ftp://example.org/a",
		"data:image/png;base64,AAAA", "javascript:alert(1)", "/api/randoms", "https://",
		"https://ana@example.org/a.png", "https://ana:x@example.org/a.png", "https://example.org\\@localhost/",
		"https://localhost/logout", "https://localhost:8443/", "https://LOCALHOST/", "https://localhost./", "https://a.localhost/",
		"https://127.0.0.1/", "https://127.0.0.1:8080/", "https://127.1/", "https://2130706433/", "https://0x7f.1/", "https://0x7f000001/",
		"https://0177.0.0.1/", "https://1.0/", "https://１２７.0.0.1/", "https://lⓞcalhost/", "https://%6cocalhost/",
		"https://[::1]/", "https://[::ffff:127.0.0.1]/", "https://[::127.0.0.1]/", "https://[fe80::1%25eth0]/", "https://[fd00::1]/",
		"https://10.0.0.1/", "https://192.168.1.1/", "https://172.16.0.1/", "https://169.254.169.254/latest/", "https://0.0.0.0/",
		"https://100.64.0.1/", "https://255.255.255.255/", "https://224.0.0.1/", "https://[64:ff9b::7f00:1]/", "https://a..b/",
		"https://example.org:port/", "https://example.org/\x7f", "https://exa mple.org/",
		"https://example.org/" + strings.Repeat("a", maxURL),
	} {
		if e := send("localhost", foto).want(t, http.StatusBadRequest).jsonError(t); e.Campo != "foto" {
			t.Errorf("%q: %+v", foto, e)
		}
	}
	for _, foto := range []string{
		"https://example.org/a.png", "https://example.org:8443/a.png?b=c#d", "HTTPS://Example.ORG/ñ a.png", "https://xn--and-6ma2c.example/",
		"https://93.184.216.34/a.png", "https://[2606:2800:220:1::1]/a.png", "https://example.org/" + strings.Repeat("a", maxURL-20),
		"https://1and1.example/", "https://a_b.example./",
	} {
		send("localhost", foto).want(t, http.StatusCreated)
	}
	stop := p.victim(t, "/login")
	defer stop()
	form := profile("eva@example.org", "long enough")
	form.Set("avatar", "https://127.0.0.1/logout")
	p.send(t, call{method: "POST", path: "/signup", header: acceptJSON, form: form}).want(t, http.StatusBadRequest)

	for host, same := range map[string]bool{
		"balanza.example": true, "BALANZA.example:8080": true, "balanza.example.": true, "balanza.example.:443": true,
		"a.balanza.example": false, "balanza.example.org": false, "[2001:db8::1]": false,
	} {
		if sameHost(host, "balanza.example:8000") != same {
			t.Errorf("%s is balanza.example: %v", host, !same)
		}
	}
	if !sameHost("[2001:db8::1]:443", "[2001:db8::1]") {
		t.Error("an IPv6 address is not itself on another port")
	}
}

// Pages load pictures by https only, whatever addresses earlier versions have stored.
func TestPagesLoadNoPictureByHTTP(t *testing.T) {
	p := start(t)
	addUser(t, p.store, "ana@example.org")
	policy := p.send(t, call{path: "/", cookie: addSession(t, p.store, "ana@example.org")}).Header.Get("Content-Security-Policy")
	if !strings.Contains(policy, "img-src 'self' https:;") {
		t.Errorf("%s", policy)
	}
	if policy := p.send(t, call{path: "/productos-test"}).Header.Get("Content-Security-Policy"); !strings.Contains(policy, "img-src data: 'self'") {
		t.Errorf("the mock products' pictures: %s", policy)
	}
}

// A page that shows /api/randoms as a picture, in a frame, or asks for it from another site, makes nobody draw.
func TestNoDrawsForPictures(t *testing.T) {
	v := serve(t, siteWithoutStore(t, Config{}), listen(t))
	for _, header := range []map[string]string{
		{"Sec-Fetch-Dest": "image", "Sec-Fetch-Site": "same-origin"}, {"Sec-Fetch-Dest": "image", "Sec-Fetch-Site": "cross-site"},
		{"Sec-Fetch-Dest": "iframe", "Sec-Fetch-Site": "cross-site"}, {"Sec-Fetch-Dest": "script", "Sec-Fetch-Site": "same-origin"},
		{"Sec-Fetch-Dest": "empty", "Sec-Fetch-Site": "cross-site"}, {"Sec-Fetch-Dest": "empty", "Sec-Fetch-Site": "same-site"},
		{"Sec-Fetch-Site": "cross-site"}, {"Accept": "image/avif,image/webp,image/*,*/*;q=0.8"},
	} {
		for _, path := range []string{"/api/randoms?cant=1000000000", "/test/randoms", "/test/random/"} {
			v.send(t, call{path: path, header: header}).want(t, http.StatusForbidden)
		}
	}
	for _, header := range []map[string]string{
		{}, {"Sec-Fetch-Dest": "document", "Sec-Fetch-Site": "none"}, {"Sec-Fetch-Dest": "document", "Sec-Fetch-Site": "cross-site"},
		{"Sec-Fetch-Dest": "empty", "Sec-Fetch-Site": "same-origin"}, {"Accept": "application/json"},
	} {
		v.send(t, call{path: "/api/randoms?cant=1000", header: header}).want(t, http.StatusOK)
	}
}
