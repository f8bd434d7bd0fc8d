package e2e

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/chromedp/cdproto/emulation"
	"github.com/chromedp/cdproto/input"
	"github.com/chromedp/chromedp"

	"balanza/e2e/testenv"
)

// chromium starts the browser once for all tests. Each test gets browser contexts of its own, which share no cookies.
var chromium = sync.OnceValues(func() (context.Context, error) {
	path, err := exec.LookPath("chromium")
	if err != nil {
		return nil, err
	}
	options := append(chromedp.DefaultExecAllocatorOptions[:],
		chromedp.ExecPath(path),
		chromedp.DisableGPU,
		chromedp.Flag("disable-component-update", true),
		chromedp.Flag("accept-lang", "en-US"),
	)
	if os.Getuid() == 0 {
		options = append(options, chromedp.NoSandbox) // the sandbox does not work as root
	}
	allocated, cancel := chromedp.NewExecAllocator(context.Background(), options...)
	ctx, _ := chromedp.NewContext(allocated)
	cleanups = append(cleanups, func() {
		_ = chromedp.Cancel(ctx) // all tests are over
		cancel()
	})
	return ctx, chromedp.Do(ctx)
})

// tab is a page of the browser.
type tab struct {
	t   *testing.T
	ctx context.Context
}

// newTab opens a tab that shares no cookies with others. An exception in a script, or a violation of the content security
// policy, fails the test.
func newTab(t *testing.T) *tab {
	t.Helper()
	browser, err := chromium()
	if errors.Is(err, exec.ErrNotFound) {
		testenv.SkipOrFail(t, err)
	}
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := chromedp.NewContext(browser, chromedp.WithNewBrowserContext())
	t.Cleanup(cancel)
	ctx, cancelTimeout := context.WithTimeout(ctx, 5*time.Minute)
	t.Cleanup(cancelTimeout)
	p := &tab{t, ctx}
	console := chromedp.Console(ctx)
	go func() {
		for m, err := range console {
			if err != nil {
				return
			}
			if m.IsException() || strings.Contains(m.Text, "Content Security Policy") {
				t.Errorf("console: %v", m)
			}
		}
	}()
	return p
}

// run performs actions, like clicks and keys.
func (p *tab) run(actions ...chromedp.Action[chromedp.Void]) {
	p.t.Helper()
	if err := chromedp.Do(p.ctx, actions...); err != nil {
		p.t.Fatalf("at %s: %v", p.location(), err)
	}
}

func (p *tab) open(url string) {
	p.t.Helper()
	p.run(chromedp.Navigate(url))
}

// fill replaces the text of fields, given as pairs of id and text.
func (p *tab) fill(fields ...[2]string) {
	p.t.Helper()
	for _, f := range fields {
		p.run(chromedp.WaitVisible(chromedp.CSS("#" + f[0])))
		evaluate[any](p, fmt.Sprintf("document.getElementById(%q).select()", f[0]))
		if _, err := chromedp.Call(p.ctx, input.InsertText, input.InsertTextParams{Text: f[1]}); err != nil {
			p.t.Fatal(err)
		}
	}
}

func (p *tab) click(selector string) {
	p.t.Helper()
	p.run(chromedp.Click(chromedp.CSS(selector), chromedp.NodeVisible))
}

func (p *tab) location() string {
	url, err := chromedp.Run(p.ctx, chromedp.Location())
	if err != nil {
		return err.Error()
	}
	return url
}

// evaluate returns a script's value.
func evaluate[T any](p *tab, script string) T {
	p.t.Helper()
	v, err := chromedp.Run(p.ctx, chromedp.Evaluate[T](script))
	if err != nil {
		p.t.Fatalf("%s: %v", script, err)
	}
	return v
}

// await waits until a script's value is true.
func (p *tab) await(script string) {
	p.t.Helper()
	eventually(p.t, script, func() error {
		// Evaluate fails while the browser loads another page: await tries again.
		done, err := chromedp.Run(p.ctx, chromedp.Evaluate[bool](script))
		if err == nil && !done {
			err = fmt.Errorf("not true yet at %s: %s", p.location(), tail(p.text("body"), 600))
		}
		return err
	})
}

// text returns an element's visible text, empty when there is no such element.
func (p *tab) text(selector string) string {
	text, err := chromedp.Run(p.ctx, chromedp.Evaluate[string](
		fmt.Sprintf("document.querySelector(%q)?.innerText ?? ''", selector)))
	if err != nil {
		return err.Error()
	}
	return text
}

// awaitText waits until an element's text contains a text.
func (p *tab) awaitText(selector, want string) {
	p.t.Helper()
	eventually(p.t, selector, func() error {
		if got := p.text(selector); !strings.Contains(got, want) {
			return fmt.Errorf("%q is not in %q at %s", want, got, p.location())
		}
		return nil
	})
}

// awaitPath waits until a page with this path is loaded.
func (p *tab) awaitPath(path string) {
	p.t.Helper()
	p.await(fmt.Sprintf("location.pathname === %q && document.readyState === 'complete'", path))
}

// emulate sets the width of the tab, in CSS pixels, and its colour scheme, light or dark.
func (p *tab) emulate(width int64, scheme string) {
	p.t.Helper()
	p.run(chromedp.EmulateViewport(width, 800))
	_, err := chromedp.Call(p.ctx, emulation.SetEmulatedMedia, emulation.SetEmulatedMediaParams{
		Features: []*emulation.MediaFeature{{Name: "prefers-color-scheme", Value: scheme}}})
	if err != nil {
		p.t.Fatal(err)
	}
}

// noPicture is the address of a picture that does not exist.
const noPicture = "https://picture.invalid/picture.png"

const password = "una balanza de bronce"

// signUp makes an account and waits until the start page is connected.
func (p *tab) signUp(site, email string) {
	p.t.Helper()
	p.submitSignUp(site, email)
	p.awaitPath("/")
	p.awaitOnline()
}

// submitSignUp fills the form of the sign-up page and submits it. The name is the first part of the email.
func (p *tab) submitSignUp(site, email string) {
	p.t.Helper()
	p.open(site + "/signup")
	name, _, _ := strings.Cut(email, "@")
	p.fill([2]string{"email", email}, [2]string{"password", password}, [2]string{"nombre", name},
		[2]string{"apellido", "Prueba"}, [2]string{"edad", "30"}, [2]string{"alias", name})
	p.click("#signup-form button")
}

// twoUsers opens two tabs and signs up a user in each, ana at one site and beto at the other.
func twoUsers(t *testing.T, anasSite, betosSite string) (ana, beto *tab) {
	t.Helper()
	ana, beto = newTab(t), newTab(t)
	ana.signUp(anasSite, "ana@example.com")
	beto.signUp(betosSite, "beto@example.com")
	return ana, beto
}

func (p *tab) logIn(email, password string) {
	p.t.Helper()
	p.fill([2]string{"email", email}, [2]string{"password", password})
	p.click("#login-form button")
}

// awaitOnline waits until the page's websocket is connected.
func (p *tab) awaitOnline() {
	p.t.Helper()
	p.await("document.querySelector('#state')?.dataset.state === 'open'")
}

// send writes a message and presses Enter.
func (p *tab) send(text string) {
	p.t.Helper()
	p.run(chromedp.SendKeys(chromedp.CSS("#text"), text+"\r"))
}

// messageTexts is the script for the texts of the messages on the page, in order.
const messageTexts = "[...document.querySelectorAll('#messages .text')].map(e => e.textContent)"

func (p *tab) messages() []string {
	p.t.Helper()
	return evaluate[[]string](p, messageTexts)
}

// awaitMessages waits until the page shows exactly these messages.
func (p *tab) awaitMessages(want ...string) {
	p.t.Helper()
	p.awaitTexts(messageTexts, want)
}

// awaitTexts waits until a script's value is exactly this list of texts.
func (p *tab) awaitTexts(script string, want []string) {
	p.t.Helper()
	eventually(p.t, script, func() error {
		if got := evaluate[[]string](p, script); !slices.Equal(got, want) {
			return fmt.Errorf("the page shows %q, want %q", got, want)
		}
		return nil
	})
}
