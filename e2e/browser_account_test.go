package e2e

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"testing"
	"time"

	"github.com/chromedp/cdproto/emulation"
	"github.com/chromedp/chromedp"
)

func TestSignUpAndLogOut(t *testing.T) {
	s := serve(t, t.TempDir())
	p := newTab(t)

	p.open(s.url + "/")
	p.awaitPath("/login")
	p.click(".other .button")
	p.awaitPath("/signup")
	p.signUp(s.url, "ana@example.com")
	p.awaitText("#email", "ana@example.com")

	p.click("#logout")
	p.awaitPath("/logout")
	p.awaitText("h1", "ana@example.com")
	p.awaitPath("/login")
	p.open(s.url + "/")
	p.awaitPath("/login")

	p.logIn("ana@example.com", "otra contraseña")
	p.awaitPath("/faillogin")
	p.click(".actions .button")
	p.awaitPath("/login")
	p.logIn("ANA@example.com", password)
	p.awaitPath("/")
	p.awaitOnline()

	other := newTab(t)
	other.submitSignUp(s.url, "Ana@Example.com")
	other.awaitPath("/failsignup")
}

// The page that answers the log-out button is shown even when the window's websocket ends before that page arrives.
func TestSlowLogOut(t *testing.T) {
	s := serve(t, t.TempDir())
	target, err := url.Parse(s.url)
	if err != nil {
		t.Fatal(err)
	}
	proxy := httputil.NewSingleHostReverseProxy(target)
	proxy.ModifyResponse = func(r *http.Response) error {
		if r.Request.Method == http.MethodPost && r.Request.URL.Path == "/logout" {
			time.Sleep(time.Second)
		}
		return nil
	}
	slow := httptest.NewServer(proxy)
	defer slow.Close()
	p := newTab(t)
	p.signUp(slow.URL, "ana@example.com")
	p.click("#logout")
	p.awaitPath("/logout")
	p.awaitPath("/login")
}

// Sign-up, log-out and log-in work without scripts.
func TestAccountWithoutScripts(t *testing.T) {
	s := serve(t, t.TempDir())
	p := newTab(t)
	if err := chromedp.Do(p.ctx); err != nil { // opens the tab, which the next call needs
		t.Fatal(err)
	}
	if _, err := chromedp.Call(p.ctx, emulation.SetScriptExecutionDisabled,
		emulation.SetScriptExecutionDisabledParams{Value: true}); err != nil {
		t.Fatal(err)
	}
	p.submitSignUp(s.url, "eva@example.com")
	p.awaitPath("/")
	p.awaitText("#email", "eva@example.com")
	p.click("#logout")
	p.awaitPath("/logout")
	p.awaitPath("/login") // two seconds later, without a script
	p.logIn("eva@example.com", password)
	p.awaitPath("/")
}

// Every form and button can be reached and used with the keyboard alone.
func TestKeyboardOnly(t *testing.T) {
	s := serve(t, t.TempDir())
	p := newTab(t)
	p.signUp(s.url, "ana@example.com")
	p.click("#logout")
	p.awaitPath("/login")

	press := func(keys string) { p.run(chromedp.KeyEvent(keys)) }
	tabTo := func(id string) {
		t.Helper()
		for range 30 {
			if evaluate[string](p, "document.activeElement.id") == id {
				return
			}
			press("\t")
		}
		t.Fatalf("30 times Tab do not reach #%s", id)
	}
	tabTo("email")
	press("ana@example.com\t" + password + "\r")
	p.awaitPath("/")
	p.awaitOnline()
	press("\t")
	if skip := p.text(":focus"); skip != "Skip to content" {
		t.Errorf("the first Tab reaches %q", skip)
	}
	tabTo("nombre")
	press("Regla\t2.5\t" + noPicture + "\r")
	p.awaitProducts("Regla 2.50")
	tabTo("text")
	press("hola\r")
	p.awaitMessages("hola")
	tabTo("log") // to scroll in it
	tabTo("logout")
	press("\r")
	p.awaitPath("/logout")
}

// A log-out in one window ends the session's other windows, here one that is connected to another process.
func TestLogOutEndsOtherWindows(t *testing.T) {
	home := t.TempDir()
	first, second := serve(t, home), serve(t, home)
	p := newTab(t)
	p.signUp(first.url, "ana@example.com")
	ctx, cancel := chromedp.NewContext(p.ctx) // another window with the same cookies
	defer cancel()
	window := &tab{t, ctx}
	window.open(second.url + "/")
	window.awaitOnline()

	p.click("#logout")
	p.awaitPath("/logout")
	window.awaitPath("/login")
}

// submit fills the fields of a form, given as pairs of a selector and a text, and presses its button.
func (p *tab) submit(form string, fields ...[2]string) {
	p.t.Helper()
	for _, f := range fields {
		p.run(chromedp.WaitVisible(chromedp.CSS(form+" "+f[0])), chromedp.SendKeys(chromedp.CSS(form+" "+f[0]), f[1]))
	}
	p.click(form + " button")
}

// The account page changes the password, which ends the user's other browsers, lists and ends sessions, and deletes the
// account. It needs no script: the windows that close are those of the start page.
func TestAccountPage(t *testing.T) {
	const newPassword = "cuatro palabras sin orden"
	home := t.TempDir()
	first, second := serve(t, home), serve(t, home)
	p, other := newTab(t), newTab(t)
	p.signUp(first.url, "ana@example.com")
	logInElsewhere := func(password string) {
		t.Helper()
		other.open(second.url + "/login")
		other.logIn("ana@example.com", password)
		other.awaitPath("/")
		other.awaitOnline()
	}
	sessions := func(want int) {
		t.Helper()
		p.await(fmt.Sprintf("document.querySelectorAll('.sessions li').length === %d", want))
	}
	logInElsewhere(password)

	p.click("#email")
	p.awaitPath("/account")
	sessions(2)
	p.awaitText(".sessions", "Chrome · Linux")
	p.click(".sessions li form button")
	sessions(1)
	p.awaitText("#done", "ended in the other browser")
	other.awaitPath("/login")

	logInElsewhere(password)
	p.open(first.url + "/account")
	sessions(2)
	p.submit("#password-form", [2]string{"#password", "not this one"}, [2]string{"#new", newPassword})
	p.awaitText("#password-error", "wrong")
	p.submit("#password-form", [2]string{"#password", password}, [2]string{"#new", "Password1!"})
	p.awaitText("#password-error", "among the first to be tried")
	p.submit("#password-form", [2]string{"#password", password}, [2]string{"#new", newPassword})
	p.awaitText("#done", "has changed")
	sessions(1)
	other.awaitPath("/login")
	other.logIn("ana@example.com", password)
	other.awaitPath("/faillogin")

	logInElsewhere(newPassword)
	p.open(first.url + "/account")
	p.submit("#delete-form", [2]string{"#delete-password", newPassword})
	p.awaitPath("/account/deleted")
	other.awaitPath("/login")
	p.open(first.url + "/account")
	p.awaitPath("/login")
}

// A picture of /logout, which a message or a product of another user can have, ends nobody's session.
func TestPictureOfLogOut(t *testing.T) {
	s := serve(t, t.TempDir())
	p := newTab(t)
	p.signUp(s.url, "ana@example.com")
	evaluate[any](p, `new Promise((done) => { const i = new Image(); i.onload = i.onerror = () => done(); i.src = '/logout'; })`)
	p.open(s.url + "/logout")
	p.awaitText("main", "ana@example.com")
	p.click("main button")
	p.awaitText("h1", "See you soon")
	p.awaitPath("/login")
}
