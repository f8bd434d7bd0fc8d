package e2e

import (
	"context"
	"fmt"
	"math"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	dialogs "github.com/chromedp/cdproto/page"
	"github.com/chromedp/chromedp"
	"github.com/chromedp/chromedp/kb"

	"balanza/e2e/proctree"
	"balanza/services/store"
	"balanza/services/store/sqlitestore"
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
	parallelPage(t)
	s := serve(t, t.TempDir())
	p := newTab(t)
	p.signUp(s.url, "ana@example.com")
	proctree.Stop(t, s.cmd.Process.Pid)
	t.Cleanup(func() { _ = s.cmd.Process.Signal(syscall.SIGCONT) }) // a stopped process ignores SIGTERM
	p.send("hola")
	p.await("document.querySelector('#state').dataset.state === 'waiting'")
	p.checkLeavePrompt()
	sendSignal(t, s.cmd.Process.Pid, syscall.SIGCONT)
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

// storeOldMessages stores messages 1, 2 … of an author as another process would, and an event after each tenth.
func storeOldMessages(t *testing.T, home string, count int) {
	t.Helper()
	db, err := sqlitestore.Open(t.Context(), filepath.Join(home, "data", "balanza.db"))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = db.Close() }()
	author := store.Author{ID: "vieja@example.com", Nombre: "Vieja", Apellido: "Prueba", Edad: 30, Alias: "vieja"}
	var entries []store.Entry
	for i := range count {
		entries = append(entries, store.Entry{Kind: store.MessagePosted, Author: author.ID, ClientID: fmt.Sprint(i),
			Message: &store.Message{Author: author, Text: fmt.Sprint(i + 1), Time: time.Now().Add(-time.Hour)}})
		if i%10 == 9 {
			entries = append(entries, store.Entry{Kind: store.ProductChanged, Subject: "p", ClientID: store.NewEventID(time.Now())})
		}
	}
	if _, err := db.Append(t.Context(), entries); err != nil {
		t.Fatal(err)
	}
}

// A reader who scrolls up, with the wheel, the keyboard or the button, gets the earlier messages down to the first one. What
// is in view does not move, new messages go on arriving, and the compression is that of all messages that are shown.
func TestScrollUpForEarlierMessages(t *testing.T) {
	const count = 530
	home := t.TempDir()
	s := serve(t, home)
	storeOldMessages(t, home, count)
	ana, beto := twoUsers(t, s.url, s.url)
	shown := func(n int) string { return fmt.Sprintf("document.querySelectorAll('#messages li').length === %d", n) }
	for _, width := range []int64{1280, 360} {
		ana.emulate(width, "light")
		ana.open(s.url + "/")
		ana.awaitOnline()
		before := len(beto.messages())
		ana.await(shown(200))
		if evaluate[bool](ana, "document.querySelector('#chat-earlier').parentElement.hidden") {
			t.Error("no button although there are earlier messages")
		}

		// A message in view, whose position is compared after more were put before it.
		evaluate[any](ana, `{
			const log = document.querySelector('#log');
			log.scrollTop = 250 - (log.scrollHeight - log.clientHeight);
			const top = log.getBoundingClientRect().top;
			window.anchor = [...document.querySelectorAll('#messages li')].find(li => li.getBoundingClientRect().top > top + 20);
			window.anchorTop = anchor.getBoundingClientRect().top;
			null
		}`)
		ana.await(shown(300))
		time.Sleep(200 * time.Millisecond)
		if moved := evaluate[float64](ana, "anchor.getBoundingClientRect().top - anchorTop"); math.Abs(moved) > 2 {
			t.Errorf("%d px wide: the message in view moved by %v px", width, moved)
		}
		beto.send("nuevo")
		beto.await(fmt.Sprintf("document.querySelectorAll('#messages li').length === %d", before+1))
		ana.await(shown(301))
		if moved := evaluate[float64](ana, "anchor.getBoundingClientRect().top - anchorTop"); math.Abs(moved) > 2 {
			t.Errorf("%d px wide: the message in view moved by %v px when another one arrived", width, moved)
		}

		// The Home key scrolls to the first message, which then is no longer the first one; the button does the same.
		evaluate[any](ana, "document.querySelector('#log').focus(), null")
		ana.run(chromedp.KeyEvent(kb.Home))
		ana.await("document.querySelectorAll('#messages li').length >= 401")
		for range 100 {
			if evaluate[bool](ana, "document.querySelector('#chat-earlier').parentElement.hidden") {
				break
			}
			evaluate[any](ana, "document.querySelector('#chat-earlier').focus({ preventScroll: true }), null")
			ana.run(chromedp.KeyEvent("\r"))
			time.Sleep(100 * time.Millisecond)
		}
		ana.await("document.activeElement.matches('#log, body')") // the button had the focus, if it was still there
		texts := ana.messages()
		for i := range count {
			if len(texts) <= count || texts[i] != fmt.Sprint(i+1) {
				t.Fatalf("%d px wide: of %d messages, number %d is not in its place", width, len(texts), i+1)
			}
		}
		evaluate[any](ana, expectedCompression)
		ana.await(`Math.abs(document.querySelector('#compression').textContent.match(/[\d.,]+/)?.[0].replace(',', '.')
			- window.expected) < 0.006`)
	}
}

// expectedCompression computes the compression of the whole chat, as the pages of its history have it.
const expectedCompression = `(async () => {
	const authors = {}, messages = {};
	let ids = [];
	for (let address = '/api/mensajes?limit=200'; address;) {
		const response = await fetch(address);
		const { entities } = await response.json();
		Object.assign(authors, entities.authors);
		Object.assign(messages, entities.messages);
		ids = [...entities.chats.mensajes.mensajes, ...ids];
		address = response.headers.get('Link')?.match(/<([^>]+)>/)[1];
	}
	const normalised = { result: 'mensajes', entities: { authors, messages, chats: { mensajes: { id: 'mensajes', mensajes: ids } } } };
	const full = { id: 'mensajes', mensajes: ids.map(id => ({ ...messages[id], author: authors[messages[id].author] })) };
	window.expected = (100 * JSON.stringify(normalised).length / JSON.stringify(full).length).toFixed(2);
})(), null`

// A page that sends many messages at once keeps its connection, and sends all of them in order.
func TestManyMessagesAtOnce(t *testing.T) {
	const count = 60
	p := newTab(t)
	p.signUp(serve(t, homeWith(t, chatLimits)).url, "ana@example.com")
	p.awaitOnline()
	evaluate[any](p, fmt.Sprintf(`
		window.states = [];
		new MutationObserver(() => states.push(document.querySelector('#state').dataset.state))
			.observe(document.querySelector('#state'), { attributes: true });
		for (let i = 0; i < %d; i++) {
			document.querySelector('#text').value = i;
			document.querySelector('#chat-form').requestSubmit();
		} null`, count))
	var want []string
	for i := range count {
		want = append(want, fmt.Sprint(i))
	}
	p.awaitMessages(want...)
	if states := evaluate[[]string](p, "states"); len(states) > 0 {
		t.Errorf("the connection was %q", states)
	}
}

// A page of an account with too many says why it is not connected, and connects when another one is closed. A page says why
// its messages must wait, and keeps them.
func TestPageShowsLimits(t *testing.T) {
	s := serve(t, homeWith(t, "BALANZA_LIMIT_MESSAGES=3\nBALANZA_LIMIT_WEBSOCKETS=1"))
	first := newTab(t)
	first.signUp(s.url, "ana@example.com")
	first.awaitOnline()
	ctx, cancel := chromedp.NewContext(first.ctx) // another window with the same cookies
	defer cancel()
	p := &tab{t, ctx}
	p.open(s.url + "/")
	p.awaitText("#chat-error", "your account has 1 pages open")
	p.await("document.querySelector('#state').dataset.state === 'waiting'")
	first.open(s.url + "/info")
	p.awaitOnline()
	p.await("document.querySelector('#chat-error').hidden")

	for _, text := range []string{"uno", "dos", "tres", "cuatro"} {
		p.send(text)
	}
	p.awaitMessages("uno", "dos", "tres")
	p.awaitText("#chat-error", "too many messages in a minute")
	p.awaitText("#pending", "cuatro")
}
