package e2e

import (
	"context"
	"fmt"
	"math"
	"os"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	dialogs "github.com/chromedp/cdproto/page"
	"github.com/chromedp/chromedp"
)

// style is part of the computed style of an element.
type style struct {
	Weight string
	Style  string
	Color  [3]int
}

const styleOf = `(selector => {
	const s = getComputedStyle(document.querySelector(selector));
	return { Weight: s.fontWeight, Style: s.fontStyle, Color: s.color.match(/\d+/g).slice(0, 3).map(Number) };
})`

func TestChatAcrossProcesses(t *testing.T) {
	home := t.TempDir()
	first, second := serve(t, home), serve(t, home)
	ana, beto := twoUsers(t, first.url, second.url)

	hostile := `<img src=x onerror="document.title='hacked'"> & </script>`
	ana.send("hola")
	beto.awaitMessages("hola")
	beto.send(hostile)
	for _, p := range []*tab{ana, beto} {
		p.awaitMessages("hola", hostile)
		if line := p.text("#messages .line"); !regexp.MustCompile(
			`^ana@example\.com \[\d\d/\d\d/\d{4} \d\d:\d\d:\d\d\] hola$`).MatchString(line) {
			t.Errorf("the message reads %q", line)
		}
		if title := evaluate[string](p, "document.title"); strings.Contains(title, "hacked") {
			t.Error("a message ran as a script")
		}
	}

	for _, scheme := range []string{"light", "dark"} {
		ana.emulate(1000, scheme)
		author := evaluate[style](ana, styleOf+"('#messages .author')")
		if red, green, blue := author.Color[0], author.Color[1], author.Color[2]; author.Weight != "700" || blue <= red || blue <= green {
			t.Errorf("%s: the email is not bold and blue: %+v", scheme, author)
		}
		when := evaluate[style](ana, styleOf+"('#messages .when')")
		if red, green, blue := when.Color[0], when.Color[1], when.Color[2]; red <= green || green <= blue {
			t.Errorf("%s: the time is not brown: %+v", scheme, when)
		}
		text := evaluate[style](ana, styleOf+"('#messages .text')")
		if red, green, blue := text.Color[0], text.Color[1], text.Color[2]; text.Style != "italic" || green <= red || green <= blue {
			t.Errorf("%s: the text is not italic and green: %+v", scheme, text)
		}
	}
}

// The title shows the compression of the whole conversation, which the test computes from the frames that a new page gets.
func TestCompressionInTheTitle(t *testing.T) {
	p := newTab(t)
	p.signUp(serve(t, t.TempDir(), "--m", "CLUSTER", "-i", "2").url, "ana@example.com")
	for _, text := range []string{"uno", "dos", "tres"} {
		p.send(text)
	}
	p.awaitMessages("uno", "dos", "tres")
	evaluate[any](p, `{
		const authors = {}, messages = {};
		const socket = new WebSocket(location.href.replace(/^http/, 'ws') + 'ws');
		socket.onmessage = ({ data }) => { // more than one, if this process does not have all messages yet
			const { entities } = JSON.parse(data).normalised;
			Object.assign(authors, entities.authors);
			Object.assign(messages, entities.messages);
			const list = Object.values(messages);
			if (list.length < 3) return;
			const chats = { mensajes: { id: 'mensajes', mensajes: list.map(m => m.id) } };
			const normalised = { result: 'mensajes', entities: { authors, messages, chats } };
			const full = { id: 'mensajes', mensajes: list.map(m => ({ ...m, author: authors[m.author] })) };
			window.expected = (100 * JSON.stringify(normalised).length / JSON.stringify(full).length).toFixed(2);
			socket.close();
		};
		null
	}`)
	p.await("window.expected !== undefined")
	p.await(`{
		const shown = document.querySelector('#compression').textContent.match(/[\d.,]+/)?.[0].replace(',', '.');
		Math.abs(shown - window.expected) < 0.006
	}`)
}

// A page whose process is killed keeps the messages that are written, reconnects to the next process and gets the messages
// that it missed. Every page shows each message once.
func TestPageReconnectsAfterKill(t *testing.T) {
	home := t.TempDir()
	killed, other := serve(t, home), serve(t, home)
	ana, beto := twoUsers(t, killed.url, other.url)
	ana.send("antes")
	beto.awaitMessages("antes")

	killed.end(syscall.SIGKILL)
	ana.await("document.querySelector('#state').dataset.state === 'waiting'")
	ana.send("desde lejos")
	ana.awaitText("#pending", "desde lejos")
	beto.send("mientras tanto")
	beto.awaitMessages("antes", "mientras tanto")

	killed.start()
	ana.awaitOnline()
	for _, p := range []*tab{ana, beto} {
		p.awaitMessages("antes", "mientras tanto", "desde lejos")
	}
	ana.await("document.querySelector('#pending').children.length === 0")
	ana.send("después")
	beto.awaitMessages("antes", "mientras tanto", "desde lejos", "después")
}

// When the process hangs without closing the connection, the page drops it, reconnects, and loses no message.
func TestPageReconnectsAfterHang(t *testing.T) {
	s := serve(t, t.TempDir())
	p := newTab(t)
	p.signUp(s.url, "ana@example.com")
	signal := func(signal os.Signal) {
		if err := s.cmd.Process.Signal(signal); err != nil {
			t.Fatal(err)
		}
	}
	signal(syscall.SIGSTOP)
	t.Cleanup(func() { _ = s.cmd.Process.Signal(syscall.SIGCONT) }) // a stopped process ignores SIGTERM
	p.send("hola")
	p.await("document.querySelector('#state').dataset.state === 'waiting'")
	p.checkLeavePrompt()
	signal(syscall.SIGCONT)
	p.awaitOnline()
	p.awaitMessages("hola")
	p.await("document.querySelector('#pending').children.length === 0")
}

// checkLeavePrompt reloads a page with messages that are not acknowledged. The browser must ask, and the page stays.
func (p *tab) checkLeavePrompt() {
	p.t.Helper()
	ctx, cancel := context.WithTimeout(p.ctx, 20*time.Second)
	defer cancel()
	prompts := chromedp.Events(ctx, dialogs.JavascriptDialogOpening)
	evaluate[any](p, "setTimeout(() => location.reload()), null")
	for dialog, err := range prompts {
		if err != nil || dialog.Type != dialogs.DialogTypeBeforeunload {
			p.t.Fatalf("before leaving: %+v, %v", dialog, err)
		}
		break
	}
	dismiss := dialogs.HandleJavaScriptDialogParams{Accept: false}
	if _, err := chromedp.Call(p.ctx, dialogs.HandleJavaScriptDialog, dismiss); err != nil {
		p.t.Fatal(err)
	}
}

// A reload replaces every worker. The pages reconnect by themselves and lose no message.
func TestPagesReconnectAfterReload(t *testing.T) {
	s := serve(t, t.TempDir(), "--m", "CLUSTER", "-i", "2", "--name", "site")
	ana, beto := twoUsers(t, s.url, s.url)
	ana.send("antes")
	beto.awaitMessages("antes")
	s.mustRun("reload", "site")
	ana.send("después")
	beto.send("también")
	for _, p := range []*tab{ana, beto} {
		p.awaitOnline()
		p.await("document.querySelectorAll('#messages .text').length === 3")
		if got := strings.Join(p.messages(), "|"); got != "antes|después|también" && got != "antes|también|después" {
			t.Errorf("after the reload a page shows %q", got)
		}
	}
	if a, b := ana.messages(), beto.messages(); !slices.Equal(a, b) {
		t.Errorf("the pages differ: %q and %q", a, b)
	}
	ana.open(s.url + "/")
	ana.awaitMessages(beto.messages()...)
}

// A log that shows its end scrolls as messages arrive. One that shows earlier messages keeps its position.
func TestChatScrollPosition(t *testing.T) {
	p := newTab(t)
	p.signUp(serve(t, t.TempDir()).url, "ana@example.com")
	send := func(n int) {
		t.Helper()
		shown := len(p.messages())
		evaluate[any](p, fmt.Sprintf(`for (let i = 0; i < %d; i++) {
			document.querySelector('#text').value = 'mensaje ' + i;
			document.querySelector('#chat-form').requestSubmit();
		} null`, n))
		p.await(fmt.Sprintf("document.querySelectorAll('#messages li').length === %d", shown+n))
	}
	const atEnd = `{
		const log = document.querySelector('#log').getBoundingClientRect();
		const last = document.querySelector('#messages li:last-child').getBoundingClientRect();
		last.bottom <= log.bottom + 1 && last.top >= log.top
	}`
	send(40)
	p.await(atEnd)
	send(1)
	p.await(atEnd)

	const first = "document.querySelector('#messages li').getBoundingClientRect().top"
	evaluate[any](p, "document.querySelector('#messages li').scrollIntoView(), null")
	before := evaluate[float64](p, first)
	send(3)
	if after := evaluate[float64](p, first); math.Abs(after-before) > 2 {
		t.Errorf("the first message moved by %v px", after-before)
	}
}
