package web

import (
	"encoding/json"
	"net/http"
	"strings"
	"testing"

	"balanza/services/store"
)

// A text that is not valid Unicode, and a number in an odd spelling, are rejected with the field's name; nothing is stored.
func TestInvalidTexts(t *testing.T) {
	p := start(t)
	addUser(t, p.store, "ana@example.org")
	cookie := addSession(t, p.store, "ana@example.org")
	form := map[string]string{"Content-Type": "application/x-www-form-urlencoded"}
	for _, test := range []struct{ body, field string }{
		{`nombre=%ff&precio=1&foto=https://a.b/c`, "nombre"},
		{`nombre=%&precio=1&foto=https://a.b/c`, "nombre"},
		{`nombre=a%4&precio=1&foto=https://a.b/c`, "nombre"},
		{`nombre=a%zz&precio=1&foto=https://a.b/c`, "nombre"},
		{"nombre=\xf1&precio=1&foto=https://a.b/c", "nombre"},
		{`nombre=%ed%a0%80&precio=1&foto=https://a.b/c`, "nombre"},
		{`nombre=a%00&precio=1&foto=https://a.b/c`, "nombre"},
		{`nombre=a&precio=1&foto=https://a.b/c&extra=%ff`, "extra"},
		{`nombre=a&precio=1&foto=https://a.b/c&%ff=1`, ""},
		{`nombre=a&precio=1&foto=https://a.b/%25%`, "foto"},
	} {
		a := p.send(t, call{method: "POST", path: "/api/productos", cookie: cookie, header: form, body: test.body})
		if e := a.want(t, http.StatusBadRequest).jsonError(t); e.Campo != test.field {
			t.Errorf("%q: %+v", test.body, e)
		}
	}
	for _, nombre := range []string{`"\ud800"`, `"\udc00\ud800"`, "\"\xf1\"", `"\u0000"`, `"a","nombre":"b"`} {
		a := p.send(t, call{method: "POST", path: "/api/productos", cookie: cookie,
			json: `{"nombre":` + nombre + `,"precio":1,"foto":"https://a.b/c"}`})
		if e := a.want(t, http.StatusBadRequest).jsonError(t); e.Campo != "nombre" {
			t.Errorf("%q: %+v", nombre, e)
		}
	}
	for _, precio := range []string{
		`"0x1p4"`, `"0x10"`, `"1_000"`, `"Inf"`, `"NaN"`, `"+1"`, `"1."`, `"1e"`, `" 1"`, `"1 "`, `"١"`, `"１"`, `"1,5"`, `"-0"`, `-0`, `""`, `"."`, `true`,
	} {
		a := p.send(t, call{method: "POST", path: "/api/productos", cookie: cookie,
			json: `{"nombre":"a","precio":` + precio + `,"foto":"https://a.b/c"}`})
		if e := a.want(t, http.StatusBadRequest).jsonError(t); e.Campo != "precio" {
			t.Errorf("%s: %+v", precio, e)
		}
	}
	profileWith := func(field, value string) call {
		f := profile("eva@example.org", "long enough")
		f.Set(field, value)
		return call{method: "POST", path: "/signup", form: f, header: acceptJSON}
	}
	for _, c := range []call{profileWith("edad", "0x1e"), profileWith("edad", "3_0"), profileWith("password", "long \xff enough"),
		profileWith("password", "long\x00enough")} {
		p.send(t, c).want(t, http.StatusBadRequest).jsonError(t)
	}
	for _, path := range []string{
		"/api/randoms?cant=0x10", "/api/randoms?cant=1_0", "/api/randoms?cant=%2b10", "/api/randoms?cant=%ff", "/api/randoms?cant=10&x=%",
		"/api/randoms?cant=%EF%BC%91", "/login?x=%00", "/?%zz",
	} {
		p.send(t, call{path: path, cookie: cookie, header: acceptJSON}).want(t, http.StatusBadRequest).jsonError(t)
	}
	all := p.send(t, call{path: "/api/productos"}).want(t, http.StatusOK)
	if _, err := p.store.User(t.Context(), "eva@example.org"); all.body != "[]" || err == nil {
		t.Errorf("stored: %s, or a user (%v)", all.body, err)
	}

	for precio, want := range map[string]float64{`"12.5"`: 12.5, `1e3`: 1000, `"1E+3"`: 1000, `".5"`: 0.5, `0`: 0, `"007"`: 7} {
		a := p.send(t, call{method: "POST", path: "/api/productos", cookie: cookie,
			json: `{"nombre":"Ñandú 😀","precio":` + precio + `,"foto":"https://a.b/c"}`}).want(t, http.StatusCreated)
		var stored store.Product
		if err := json.Unmarshal([]byte(a.body), &stored); err != nil || stored.Precio != want || stored.Nombre != "Ñandú 😀" {
			t.Errorf("%s: %s", precio, a.body)
		}
	}
	a := p.send(t, call{method: "POST", path: "/api/productos", cookie: cookie, header: form,
		body: "nombre=%C3%B1+%F0%9F%98%80%2B&precio=1&&foto=https%3A%2F%2Fa.b%2Fc"}).want(t, http.StatusCreated)
	if !strings.Contains(a.body, `"ñ 😀+"`) {
		t.Errorf("%s", a.body)
	}
}
