package e2e

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/chromedp/cdproto/emulation"
	"github.com/chromedp/cdproto/input"
	"github.com/chromedp/chromedp"
)

// chromium starts the browser once for all tests; persons in it share nothing.
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
		options = append(options, chromedp.NoSandbox) // Chromium refuses to be root in its sandbox
	}
	allocated, cancel := chromedp.NewExecAllocator(context.Background(), options...)
	ctx, _ := chromedp.NewContext(allocated)
	atEnd = append(atEnd, func() {
		_ = chromedp.Cancel(ctx) // all tests are over: nobody minds how it ends
		cancel()
	})
	return ctx, chromedp.Do(ctx)
})

// tab is one page of a person, who shares no cookies with others.
type tab struct {
	t   *testing.T
	ctx context.Context
}

// person opens a tab of their own. Whatever a script throws in it, and whatever the security policy refuses, fails the test.
func person(t *testing.T) *tab {
	t.Helper()
	browser, err := chromium()
	if errors.Is(err, exec.ErrNotFound) {
		missing(t, err)
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

// do does what a person does.
func (p *tab) do(actions ...chromedp.Action[chromedp.Void]) {
	p.t.Helper()
	if err := chromedp.Do(p.ctx, actions...); err != nil {
		p.t.Fatalf("at %s: %v", p.location(), err)
	}
}

func (p *tab) open(url string) {
	p.t.Helper()
	p.do(chromedp.Navigate(url))
}

// fill puts text into fields, by their ids, in place of what is there.
func (p *tab) fill(fields ...[2]string) {
	p.t.Helper()
	for _, f := range fields {
		p.do(chromedp.WaitVisible(chromedp.CSS("#" + f[0])))
		evaluate[any](p, fmt.Sprintf("document.getElementById(%q).select()", f[0]))
		if _, err := chromedp.Call(p.ctx, input.InsertText, input.InsertTextParams{Text: f[1]}); err != nil {
			p.t.Fatal(err)
		}
	}
}

func (p *tab) click(selector string) {
	p.t.Helper()
	p.do(chromedp.Click(chromedp.CSS(selector), chromedp.NodeVisible))
}

func (p *tab) location() string {
	url, err := chromedp.Run(p.ctx, chromedp.Location())
	if err != nil {
		return err.Error()
	}
	return url
}

// evaluate is a script's value.
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
		// While a page gives way to another there is none to ask: that is no failure yet.
		done, err := chromedp.Run(p.ctx, chromedp.Evaluate[bool](script))
		if err == nil && !done {
			err = fmt.Errorf("not yet; the page %s says: %s", p.location(), tail(p.text("body"), 600))
		}
		return err
	})
}

// text is an element's visible text, empty when there is no such element.
func (p *tab) text(selector string) string {
	text, err := chromedp.Run(p.ctx, chromedp.Evaluate[string](
		fmt.Sprintf("document.querySelector(%q)?.innerText ?? ''", selector)))
	if err != nil {
		return err.Error()
	}
	return text
}

// awaitText waits until an element's text holds what is wanted.
func (p *tab) awaitText(selector, want string) {
	p.t.Helper()
	eventually(p.t, selector, func() error {
		if got := p.text(selector); !strings.Contains(got, want) {
			return fmt.Errorf("%q is not in %q at %s", want, got, p.location())
		}
		return nil
	})
}

// awaitPath waits for a page to be there, loaded.
func (p *tab) awaitPath(path string) {
	p.t.Helper()
	p.await(fmt.Sprintf("location.pathname === %q && document.readyState === 'complete'", path))
}

// emulate makes the tab one of that width, in CSS pixels, and of that colour scheme.
func (p *tab) emulate(width int64, scheme string) {
	p.t.Helper()
	p.do(chromedp.EmulateViewport(width, 800))
	_, err := chromedp.Call(p.ctx, emulation.SetEmulatedMedia, emulation.SetEmulatedMediaParams{
		Features: []*emulation.MediaFeature{{Name: "prefers-color-scheme", Value: scheme}}})
	if err != nil {
		p.t.Fatal(err)
	}
}

// noPicture is an address of a picture that cannot be had, on this machine.
const noPicture = "https://127.0.0.1:9/picture.png"

const password = "una balanza de bronce"

// signUp makes an account and ends on the start page, connected.
func (p *tab) signUp(site, email string) {
	p.t.Helper()
	p.open(site + "/signup")
	name, _, _ := strings.Cut(email, "@")
	p.fill([2]string{"email", email}, [2]string{"password", password}, [2]string{"nombre", name},
		[2]string{"apellido", "Prueba"}, [2]string{"edad", "30"}, [2]string{"alias", name})
	p.click("#signup-form button")
	p.awaitPath("/")
	p.awaitOnline()
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

// say writes a message and presses Enter.
func (p *tab) say(text string) {
	p.t.Helper()
	p.do(chromedp.SendKeys(chromedp.CSS("#text"), text+"\r"))
}

// said are the texts of the messages on the page, in order.
func (p *tab) said() []string {
	p.t.Helper()
	return evaluate[[]string](p, "[...document.querySelectorAll('#messages .text')].map(e => e.textContent)")
}

// awaitSaid waits until the page shows exactly these messages.
func (p *tab) awaitSaid(want ...string) {
	p.t.Helper()
	eventually(p.t, "messages", func() error {
		if got := p.said(); strings.Join(got, "|") != strings.Join(want, "|") {
			return fmt.Errorf("the page shows %q, want %q", got, want)
		}
		return nil
	})
}
