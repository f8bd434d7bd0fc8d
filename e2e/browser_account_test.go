package e2e

import (
	"testing"

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
