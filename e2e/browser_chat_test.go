package e2e

import (
	"context"
	"fmt"
	"math"
	"os"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	dialogs "github.com/chromedp/cdproto/page"
	"github.com/chromedp/chromedp"
)

// style tells how an element is drawn.
type style struct {
	Weight string
	Style  string
	Color  [3]int
}

const styleOf = `(selector => {
	const s = getComputedStyle(document.querySelector(selector));
	return { Weight: s.fontWeight, Style: s.fontStyle, Color: s.color.match(/\d+/g).slice(0, 3).map(Number) };
})`

func TestTwoProcessesOneChat(t *testing.T) {
	home := t.TempDir()
	here, there := serve(t, home), serve(t, home)
	ana, beto := person(t), person(t)
	ana.signUp(here.url, "ana@example.com")
	beto.signUp(there.url, "beto@example.com")

	hostile := `<img src=x onerror="document.title='hacked'"> & </script>`
	ana.say("hola")
	beto.awaitSaid("hola")
	beto.say(hostile)
	for _, p := range []*tab{ana, beto} {
		p.awaitSaid("hola", hostile)
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

// The title's number is that of the whole conversation, worked out here from what the server tells a page that has nothing.
func TestCompressionInTheTitle(t *testing.T) {
	p := person(t)
	p.signUp(serve(t, t.TempDir(), "--m", "CLUSTER", "-i", "2").url, "ana@example.com")
	for _, text := range []string{"uno", "dos", "tres"} {
		p.say(text)
	}
	p.awaitSaid("uno", "dos", "tres")
	evaluate[any](p, `{
		const authors = {}, messages = {};
		const socket = new WebSocket(location.href.replace(/^http/, 'ws') + 'ws');
		socket.onmessage = ({ data }) => { // more than one, if this process has not heard of all yet
			const { entities } = JSON.parse(data).normalised;
			Object.assign(authors, entities.authors);
			Object.assign(messages, entities.messages);
			const said = Object.values(messages);
			if (said.length < 3) return;
			const chats = { mensajes: { id: 'mensajes', mensajes: said.map(m => m.id) } };
			const normalised = { result: 'mensajes', entities: { authors, messages, chats } };
			const full = { id: 'mensajes', mensajes: said.map(m => ({ ...m, author: authors[m.author] })) };
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

// A page whose process is killed keeps what is written, comes back when the process does, and gets what it missed: each
// message once, on every page.
func TestPageOutlivesItsProcess(t *testing.T) {
	home := t.TempDir()
	mortal, other := serve(t, home), serve(t, home)
	ana, beto := person(t), person(t)
	ana.signUp(mortal.url, "ana@example.com")
	beto.signUp(other.url, "beto@example.com")
	ana.say("antes")
	beto.awaitSaid("antes")

	mortal.end(syscall.SIGKILL)
	ana.await("document.querySelector('#state').dataset.state === 'waiting'")
	ana.say("desde lejos")
	ana.awaitText("#pending", "desde lejos")
	beto.say("mientras tanto")
	beto.awaitSaid("antes", "mientras tanto")

	mortal.start()
	ana.awaitOnline()
	for _, p := range []*tab{ana, beto} {
		p.awaitSaid("antes", "mientras tanto", "desde lejos")
	}
	ana.await("document.querySelector('#pending').children.length === 0")
	ana.say("después")
	beto.awaitSaid("antes", "mientras tanto", "desde lejos", "después")
}

// A process that hangs, without closing anything, does not keep the page: it gives up, tries again, and loses nothing.
func TestPageOutlivesAHang(t *testing.T) {
	s := serve(t, t.TempDir())
	p := person(t)
	p.signUp(s.url, "ana@example.com")
	hang := func(signal os.Signal) {
		if err := s.cmd.Process.Signal(signal); err != nil {
			t.Fatal(err)
		}
	}
	hang(syscall.SIGSTOP)
	t.Cleanup(func() { _ = s.cmd.Process.Signal(syscall.SIGCONT) }) // or it could not be ended
	p.say("hola")
	p.await("document.querySelector('#state').dataset.state === 'waiting'")
	p.isAskedBeforeLeaving()
	hang(syscall.SIGCONT)
	p.awaitOnline()
	p.awaitSaid("hola")
	p.await("document.querySelector('#pending').children.length === 0")
}

// isAskedBeforeLeaving reloads the page, which has messages that nobody acknowledged, and has the person stay when asked.
func (p *tab) isAskedBeforeLeaving() {
	p.t.Helper()
	ctx, cancel := context.WithTimeout(p.ctx, 20*time.Second)
	defer cancel()
	asked := chromedp.Events(ctx, dialogs.JavascriptDialogOpening)
	evaluate[any](p, "setTimeout(() => location.reload()), null")
	for dialog, err := range asked {
		if err != nil || dialog.Type != dialogs.DialogTypeBeforeunload {
			p.t.Fatalf("before leaving: %+v, %v", dialog, err)
		}
		break
	}
	stay := dialogs.HandleJavaScriptDialogParams{Accept: false}
	if _, err := chromedp.Call(p.ctx, dialogs.HandleJavaScriptDialog, stay); err != nil {
		p.t.Fatal(err)
	}
}

// A reload replaces every worker: the pages come back by themselves and lose nothing.
func TestPagesOutliveAReload(t *testing.T) {
	s := serve(t, t.TempDir(), "--m", "CLUSTER", "-i", "2", "--name", "site")
	ana, beto := person(t), person(t)
	ana.signUp(s.url, "ana@example.com")
	beto.signUp(s.url, "beto@example.com")
	ana.say("antes")
	beto.awaitSaid("antes")
	if out, err := s.balanza("reload", "site").CombinedOutput(); err != nil {
		t.Fatalf("reload: %v\n%s", err, out)
	}
	ana.say("después")
	beto.say("también")
	for _, p := range []*tab{ana, beto} {
		p.awaitOnline()
		p.await("document.querySelectorAll('#messages .text').length === 3")
		if got := strings.Join(p.said(), "|"); got != "antes|después|también" && got != "antes|también|después" {
			t.Errorf("after the reload a page shows %q", got)
		}
	}
	if here, there := strings.Join(ana.said(), "|"), strings.Join(beto.said(), "|"); here != there {
		t.Errorf("two orders: %q and %q", here, there)
	}
	ana.open(s.url + "/")
	ana.awaitSaid(beto.said()...)
}

// Who reads the end of the log stays at the end as messages come; who reads earlier ones is left there.
func TestLogStaysWhereOneReads(t *testing.T) {
	p := person(t)
	p.signUp(serve(t, t.TempDir()).url, "ana@example.com")
	say := func(n int) {
		t.Helper()
		shown := len(p.said())
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
	say(40)
	p.await(atEnd)
	say(1)
	p.await(atEnd)

	const first = "document.querySelector('#messages li').getBoundingClientRect().top"
	evaluate[any](p, "document.querySelector('#messages li').scrollIntoView(), null")
	before := evaluate[float64](p, first)
	say(3)
	if after := evaluate[float64](p, first); math.Abs(after-before) > 2 {
		t.Errorf("the first message moved by %v px", after-before)
	}
}
