package e2e

import (
	"fmt"
	"testing"

	"github.com/chromedp/cdproto/network"
	"github.com/chromedp/chromedp"
)

// rules are for every page. Each script returns the violations of its rule.
var rules = []struct{ name, script string }{
	{"fits the width", `(() => {
		const page = document.documentElement;
		return page.scrollWidth > page.clientWidth ? ['page is ' + page.scrollWidth + ' wide, window ' + page.clientWidth] : [];
	})()`},
	{"has a title, a heading and a main part", `[
		...(document.title ? [] : ['title']),
		...(document.querySelectorAll('main').length === 1 && document.querySelectorAll('h1').length === 1 ? [] : ['main or h1'])]`},
	{"labels fields, buttons and links", `[...document.querySelectorAll('input:not([type=hidden]), textarea, button, a')]
		.filter(e => !(e.labels?.length || e.ariaLabel || e.textContent.trim())).map(e => e.outerHTML)`},
	{"has a text for every key", `document.body.innerText.match(/\b(layout|home|products|chat|account|login|logout|signup|info|error|notice|deleted|panel|randoms|burst)\.[a-z]+/g) ?? []`},
	{"has contrast", `(() => {
		const channel = v => (v /= 255) <= .03928 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4;
		const luminance = ([r, g, b]) => .2126 * channel(r) + .7152 * channel(g) + .0722 * channel(b);
		const parse = color => color.match(/[\d.]+/g).map(Number);
		const ground = e => {
			for (; e; e = e.parentElement) {
				const c = parse(getComputedStyle(e).backgroundColor);
				if (c.length === 3) return c;
			}
			return [255, 255, 255];
		};
		const bad = [];
		for (const e of document.body.querySelectorAll('*')) {
			if (![...e.childNodes].some(n => n.nodeType === 3 && n.data.trim()) || !e.checkVisibility() || e.closest('noscript')) continue;
			const [a, b] = [luminance(parse(getComputedStyle(e).color)), luminance(ground(e))].sort((x, y) => y - x);
			const ratio = (a + .05) / (b + .05);
			if (ratio < 4.5) bad.push(ratio.toFixed(2) + ' ' + e.outerHTML.slice(0, 120));
		}
		return bad;
	})()`},
}

// checkRules fails the test for each rule that the page violates.
func (p *tab) checkRules(when string) {
	p.t.Helper()
	for _, rule := range rules {
		for _, violation := range evaluate[[]string](p, rule.script) {
			p.t.Errorf("%s: %s: %s", when, rule.name, violation)
		}
	}
}

// setLanguage sets the language that the browser asks for.
func (p *tab) setLanguage(language string) {
	p.t.Helper()
	if _, err := chromedp.Call(p.ctx, network.SetExtraHTTPHeaders, network.SetExtraHTTPHeadersParams{
		Headers: network.Headers{"Accept-Language": language}}); err != nil {
		p.t.Fatal(err)
	}
}

func TestPageLayout(t *testing.T) {
	s := serve(t, t.TempDir())
	loggedOut, loggedIn := newTab(t), newTab(t)
	loggedOut.open(s.url + "/login")
	loggedIn.signUp(s.url, "una.direccion.bastante.larga.de.correo@subdominio.example.com")
	loggedIn.fill([2]string{"nombre", "Calculadoracientíficadedocedígitos y más palabras"}, [2]string{"precio", "1234567.89"},
		[2]string{"foto", noPicture})
	loggedIn.click("#product-save")
	loggedIn.await("document.querySelectorAll('#product-table tbody tr').length === 1")
	loggedIn.send("Unapalabralarguísimaquenocabeenlapantalladeuntelefono, y otras. https://example.com/una/direccion/muy/larga/que/no/cabe")
	loggedIn.await("document.querySelectorAll('#messages li').length === 1")

	for _, screen := range []struct {
		width    int64
		language string
	}{{320, "es-AR"}, {1280, "en-US"}} {
		loggedOut.setLanguage(screen.language)
		loggedIn.setLanguage(screen.language)
		for _, scheme := range []string{"light", "dark"} {
			for _, page := range []struct {
				p    *tab
				path string
			}{
				{loggedOut, "/login"}, {loggedOut, "/signup"}, {loggedOut, "/faillogin"}, {loggedOut, "/failsignup"}, {loggedOut, "/nothing-here"},
				{loggedOut, "/randoms"},
				{loggedIn, "/"}, {loggedIn, "/info"}, {loggedIn, "/productos-test"}, {loggedIn, "/account"}, {loggedIn, "/panel"},
				{loggedIn, "/logout"}, {loggedOut, "/account/deleted"},
			} {
				page.p.emulate(screen.width, scheme)
				page.p.open(s.url + page.path)
				if page.path == "/" {
					page.p.await("document.querySelectorAll('#product-table tbody tr, #messages li').length === 2")
				}
				if page.path == "/panel" {
					page.p.awaitPanel()
				}
				if got := evaluate[string](page.p, "document.documentElement.lang"); got != screen.language[:2] {
					t.Errorf("%s is in %s for a reader of %s", page.path, got, screen.language)
				}
				page.p.checkRules(fmt.Sprintf("%s at %d px, %s", page.path, screen.width, scheme))
			}
		}
	}
}
