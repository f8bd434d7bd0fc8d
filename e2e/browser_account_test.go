package e2e

import (
	"testing"

	"github.com/chromedp/cdproto/emulation"
	"github.com/chromedp/chromedp"
)

func TestFromSignUpToLogOut(t *testing.T) {
	s := serve(t, t.TempDir())
	p := person(t)

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

	other := person(t)
	other.open(s.url + "/signup")
	other.fill([2]string{"email", "Ana@Example.com"}, [2]string{"password", password}, [2]string{"nombre", "Ana"},
		[2]string{"apellido", "Otra"}, [2]string{"edad", "20"}, [2]string{"alias", "a"})
	other.click("#signup-form button")
	other.awaitPath("/failsignup")
}

// The account needs no script: its forms are ordinary ones.
func TestAccountWithoutScripts(t *testing.T) {
	s := serve(t, t.TempDir())
	p := person(t)
	if err := chromedp.Do(p.ctx); err != nil { // the tab must be there for the next call
		t.Fatal(err)
	}
	if _, err := chromedp.Call(p.ctx, emulation.SetScriptExecutionDisabled,
		emulation.SetScriptExecutionDisabledParams{Value: true}); err != nil {
		t.Fatal(err)
	}
	p.open(s.url + "/signup")
	p.fill([2]string{"email", "eva@example.com"}, [2]string{"password", password}, [2]string{"nombre", "Eva"},
		[2]string{"apellido", "Prueba"}, [2]string{"edad", "30"}, [2]string{"alias", "eva"})
	p.click("#signup-form button")
	p.awaitPath("/")
	p.awaitText("#email", "eva@example.com")
	p.click("#logout")
	p.awaitPath("/logout")
	p.awaitPath("/login") // two seconds later, without a script
	p.logIn("eva@example.com", password)
	p.awaitPath("/")
}

// Everything can be reached and done with the keyboard alone.
func TestKeyboardAlone(t *testing.T) {
	s := serve(t, t.TempDir())
	p := person(t)
	p.signUp(s.url, "ana@example.com")
	p.click("#logout")
	p.awaitPath("/login")

	press := func(keys string) { p.do(chromedp.KeyEvent(keys)) }
	tabTo := func(id string) {
		t.Helper()
		for range 30 {
			if evaluate[string](p, "document.activeElement.id") == id {
				return
			}
			press("\t")
		}
		t.Fatalf("30 tabs do not lead to #%s", id)
	}
	tabTo("email")
	press("ana@example.com\t" + password + "\r")
	p.awaitPath("/")
	p.awaitOnline()
	press("\t")
	if skip := p.text(":focus"); skip != "Skip to content" {
		t.Errorf("the first thing to reach is %q", skip)
	}
	tabTo("nombre")
	press("Regla\t2.5\t" + noPicture + "\r")
	p.awaitProducts("Regla 2.50")
	tabTo("text")
	press("hola\r")
	p.awaitSaid("hola")
	tabTo("log") // to scroll in it
	tabTo("logout")
	press("\r")
	p.awaitPath("/logout")
}

// Logging out in one window ends the session's other windows, here one that hangs on another process.
func TestLogOutReachesOtherWindows(t *testing.T) {
	home := t.TempDir()
	here, there := serve(t, home), serve(t, home)
	p := person(t)
	p.signUp(here.url, "ana@example.com")
	ctx, cancel := chromedp.NewContext(p.ctx) // the same person's other window
	defer cancel()
	window := &tab{t, ctx}
	window.open(there.url + "/")
	window.awaitOnline()

	p.click("#logout")
	p.awaitPath("/logout")
	window.awaitPath("/login")
}
