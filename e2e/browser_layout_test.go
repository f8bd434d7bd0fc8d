package e2e

import (
	"testing"

	"github.com/chromedp/cdproto/network"
	"github.com/chromedp/chromedp"
)

// What every page must keep to: scripts that return what breaks the rule.
var rules = []struct{ name, script string }{
	{"fits the width", `(() => {
		const page = document.documentElement;
		return page.scrollWidth > page.clientWidth ? ['page is ' + page.scrollWidth + ' wide, window ' + page.clientWidth] : [];
	})()`},
	{"has a title, a heading and a main part", `[
		...(document.title ? [] : ['title']),
		...(document.querySelectorAll('main').length === 1 && document.querySelectorAll('h1').length === 1 ? [] : ['main or h1'])]`},
	{"labels what can be used", `[...document.querySelectorAll('input:not([type=hidden]), textarea, button, a')]
		.filter(e => !(e.labels?.length || e.ariaLabel || e.textContent.trim())).map(e => e.outerHTML)`},
	{"has a text for every key", `document.body.innerText.match(/\b(layout|home|products|chat|account|login|signup|info|error|notice)\.[a-z]+/g) ?? []`},
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

// speak makes the tab that of somebody who reads this language.
func (p *tab) speak(language string) {
	p.t.Helper()
	if _, err := chromedp.Call(p.ctx, network.SetExtraHTTPHeaders, network.SetExtraHTTPHeadersParams{
		Headers: network.Headers{"Accept-Language": language}}); err != nil {
		p.t.Fatal(err)
	}
}

func TestPagesOnEveryScreen(t *testing.T) {
	s := serve(t, t.TempDir())
	out, in := person(t), person(t)
	out.open(s.url + "/login")
	in.signUp(s.url, "una.direccion.bastante.larga.de.correo@subdominio.example.com")
	in.fill([2]string{"nombre", "Calculadoracientíficadedocedígitos y más palabras"}, [2]string{"precio", "1234567.89"},
		[2]string{"foto", noPicture})
	in.click("#product-save")
	in.await("document.querySelectorAll('#product-table tbody tr').length === 1")
	in.say("Unapalabralarguísimaquenocabeenlapantalladeuntelefono, y otras. https://example.com/una/direccion/muy/larga/que/no/cabe")
	in.await("document.querySelectorAll('#messages li').length === 1")

	for _, screen := range []struct {
		width    int64
		language string
	}{{320, "es-AR"}, {1280, "en-US"}} {
		out.speak(screen.language)
		in.speak(screen.language)
		for _, scheme := range []string{"light", "dark"} {
			for _, page := range []struct {
				p    *tab
				path string
			}{
				{out, "/login"}, {out, "/signup"}, {out, "/faillogin"}, {out, "/failsignup"}, {out, "/nothing-here"},
				{in, "/"}, {in, "/info"}, {in, "/productos-test"},
			} {
				page.p.emulate(screen.width, scheme)
				page.p.open(s.url + page.path)
				if page.path == "/" {
					page.p.await("document.querySelectorAll('#product-table tbody tr, #messages li').length === 2")
				}
				if got := evaluate[string](page.p, "document.documentElement.lang"); got != screen.language[:2] {
					t.Errorf("%s speaks %s to who reads %s", page.path, got, screen.language)
				}
				for _, rule := range rules {
					for _, wrong := range evaluate[[]string](page.p, rule.script) {
						t.Errorf("%s at %d px, %s: %s: %s", page.path, screen.width, scheme, rule.name, wrong)
					}
				}
			}
		}
	}
}
