package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/chromedp/chromedp"
	"github.com/gorilla/websocket"

	"balanza/e2e/line"
)

const (
	// maxServerFrame is the longest frame that a server sends, in bytes.
	maxServerFrame = 16 << 10
	// recentMessages is how many messages a page without any gets.
	recentMessages = 200
)

// slow is the line of TestSlowLine, in each direction: a round trip takes 800 ms.
var slow = line.Config{Rate: 64_000, Delay: 400 * time.Millisecond}

// timeOnSlowLine is how long that many bytes take without any delay.
func timeOnSlowLine(bytes int64) time.Duration {
	return time.Duration(bytes) * 8 * time.Second / time.Duration(slow.Rate)
}

// serveBehind starts a server at the far end of a line and waits until it is ready.
func serveBehind(t *testing.T, l *line.Line, args ...string) *server {
	t.Helper()
	const port = "8081"
	log, err := os.Create(filepath.Join(t.TempDir(), "log"))
	if err != nil {
		t.Fatal(err)
	}
	s := &server{t: t, home: homeWith(t, chatLimits), args: append([]string{"--p", port}, args...),
		url: "http://" + net.JoinHostPort(l.Address, port), log: log}
	cmd := s.balanza(s.args...)
	s.cmd = l.Command(context.Background(), cmd.Path, s.args...)
	s.cmd.Env, s.cmd.Dir, s.cmd.Stdout, s.cmd.Stderr = cmd.Env, cmd.Dir, log, log
	if err := s.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		l.Set(line.Config{})
		s.end(syscall.SIGTERM)
		if t.Failed() {
			content, _ := os.ReadFile(log.Name())
			t.Logf("log of %v:\n%s", s.args, tail(string(content), 4000))
		}
	})
	eventually(t, "ready: "+s.url, func() error {
		response, err := noKeepAlive.Get(s.url + "/readyz")
		if err != nil {
			return err
		}
		response.Body.Close()
		if response.StatusCode != http.StatusOK {
			return fmt.Errorf("%s", response.Status)
		}
		return nil
	})
	return s
}

// fillChat posts recentMessages messages of the longest text as two users, and returns the texts.
func fillChat(t *testing.T, s *server) (texts map[string]bool) {
	t.Helper()
	letters := []rune("abcdefghijklmnopqrstuvwxyz ABCDEFGHIJKLMNOPQRSTUVWXYZ áéíóúüñ ÁÉÍÓÚÜÑ 0123456789")
	texts = map[string]bool{}
	var pages []*page
	for _, name := range []string{"carla", "dario"} {
		p := openPage(t, newUser(t, s.url, name), 0, s.url)
		pages = append(pages, p)
		for range recentMessages / 2 {
			text := []rune{'x'} // the server removes spaces at both ends
			for range 998 {
				text = append(text, letters[rand.N(len(letters))])
			}
			text = append(text, 'x')
			texts[string(text)] = true
			p.send(string(text))
		}
	}
	for _, p := range pages {
		p.awaitShown(t, recentMessages)
	}
	return texts
}

// On a slow line a page gets all that it missed in the time that the bytes need, and is heard meanwhile.
func TestSlowLine(t *testing.T) {
	parallelPage(t)
	// Neither needs a processor for itself, as a parallel subtest has.
	var both sync.WaitGroup
	defer both.Wait()
	both.Go(func() { t.Run("client", checkSlowClient) })
	both.Go(func() { t.Run("Chromium", checkSlowPage) })
}

// countedConn counts the bytes that are read from a connection.
type countedConn struct {
	net.Conn
	n atomic.Int64
}

func (c *countedConn) Read(b []byte) (int, error) {
	n, err := c.Conn.Read(b)
	c.n.Add(int64(n))
	return n, err
}

// checkSlowClient reads the websocket itself, frame by frame.
func checkSlowClient(t *testing.T) {
	l := line.New(t, line.Config{})
	s := serveBehind(t, l, "--m", "CLUSTER", "-i", "2")
	missing := fillChat(t, s)
	u := newUser(t, s.url, "ana")

	l.Set(slow)
	var counted *countedConn
	d := websocket.Dialer{
		Jar: u.http.Jar, HandshakeTimeout: 20 * time.Second,
		NetDialContext: func(ctx context.Context, network, address string) (net.Conn, error) {
			conn, err := (&net.Dialer{}).DialContext(ctx, network, address)
			counted = &countedConn{Conn: conn}
			return counted, err
		},
	}
	began := time.Now()
	conn, _, err := d.DialContext(t.Context(), strings.Replace(s.url, "http", "ws", 1)+"/ws", http.Header{"Origin": {s.url}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	if err := conn.WriteJSON(object{"type": "message", "text": "desde lejos", "clientId": "uno"}); err != nil {
		t.Fatal(err)
	}

	_ = conn.SetReadDeadline(began.Add(2 * time.Minute))
	var last, frames int64
	var acknowledged time.Duration // since began, 0: not yet
	for len(missing) > 0 {
		_, content, err := conn.ReadMessage()
		now := time.Since(began)
		if err != nil {
			t.Fatalf("after %v, %d bytes and %d frames the connection ended, and %d of %d messages had not arrived: %v",
				now, counted.n.Load(), frames, len(missing), recentMessages, err)
		}
		frames++
		if len(content) > maxServerFrame {
			t.Errorf("frame %d has %d bytes, want at most %d", frames, len(content), maxServerFrame)
		}
		var f struct {
			frame
			More bool // the server has more that this page missed
		}
		if err := json.Unmarshal(content, &f); err != nil {
			t.Fatal(err)
		}
		switch f.Type {
		case "ack":
			acknowledged = now
		case "error":
			t.Errorf("an error frame: %s", content)
		case "chat":
			for _, m := range f.Normalised.Entities.Messages {
				delete(missing, m.Text)
				if m.ID > f.Last {
					t.Errorf("frame %d brings the page to %d and has message %d", frames, f.Last, m.ID)
				}
			}
			if f.Last < last {
				t.Errorf("frame %d brings the page to %d, an earlier one to %d", frames, f.Last, last)
			}
			last = f.Last
			if !f.More && len(missing) > 0 {
				t.Errorf("frame %d says that the page has all, and %d messages are missing", frames, len(missing))
			}
		}
	}
	took, needed := time.Since(began), timeOnSlowLine(counted.n.Load())
	t.Logf("%d bytes in %d frames took %v and need %v; the page's own message was acknowledged after %v",
		counted.n.Load(), frames, took, needed, acknowledged)
	if limit := needed*3/2 + 5*time.Second; took > limit {
		t.Errorf("%d bytes took %v, want at most %v", counted.n.Load(), took, limit)
	}
	if acknowledged == 0 {
		t.Error("the page's own message was not acknowledged before the last of the earlier messages had arrived")
	}
}

// scriptedPage is a page of any browser.
type scriptedPage interface {
	open(url string)
	// evaluateText returns the value of a script, which must be a text. It may fail while the browser loads another page.
	evaluateText(script string) (string, error)
}

func (p *tab) evaluateText(script string) (string, error) {
	return chromedp.Run(p.ctx, chromedp.Evaluate[string](script))
}

// pageStatus is what a start page shows.
type pageStatus struct {
	State   string // of the connection
	Texts   []string
	Pending int // messages that are not acknowledged
}

func statusOf(p scriptedPage) (s pageStatus, err error) {
	text, err := p.evaluateText(`JSON.stringify({
		State: document.querySelector('#state')?.dataset.state ?? '',
		Texts: ` + messageTexts + `,
		Pending: document.querySelectorAll('#pending > *').length,
	})`)
	if err == nil {
		err = json.Unmarshal([]byte(text), &s)
	}
	return s, err
}

// awaitStatus waits until a page's status is as it should be.
func awaitStatus(t *testing.T, p scriptedPage, what string, done func(pageStatus) bool) {
	t.Helper()
	eventually(t, what, func() error {
		s, err := statusOf(p)
		if err == nil && !done(s) {
			err = fmt.Errorf("not yet: %+.300v", s)
		}
		return err
	})
}

// submit runs a script that fills a form and submits it.
func submit(t *testing.T, p scriptedPage, form string, fields map[string]string) {
	t.Helper()
	values, err := json.Marshal(fields)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := p.evaluateText(fmt.Sprintf(`{
		const form = document.querySelector(%q);
		for (const [name, value] of Object.entries(%s)) form.elements[name].value = value;
		form.requestSubmit();
		''
	}`, form, values)); err != nil {
		t.Fatal(err)
	}
}

func post(t *testing.T, p scriptedPage, text string) {
	t.Helper()
	submit(t, p, "#chat-form", map[string]string{"text": text})
}

// checkSlowPage opens the start page itself over the slow line. A first page, over a fast one, tells how many bytes that
// takes.
func checkSlowPage(t *testing.T) {
	l := line.New(t, line.Config{})
	s := serveBehind(t, l, "--m", "CLUSTER", "-i", "2")
	fillChat(t, s)
	ana := newUser(t, s.url, "ana")
	loggedIn := func() *tab {
		p := newTab(t)
		p.open(s.url + "/login")
		// The form would go on to the start page at once.
		evaluate[any](p, fmt.Sprintf(`fetch('/login', { method: 'POST', body: JSON.stringify({ email: %q, password: %q }),
			headers: { 'Content-Type': 'application/json', Accept: 'application/json' } })
			.then((r) => document.body.dataset.status = r.status), null`, ana.author.ID, password))
		p.await("document.body.dataset.status === '200'")
		return p
	}

	fast := loggedIn()
	before := l.Carried()
	fast.open(s.url + "/")
	awaitStatus(t, fast, "the page on the fast line", func(s pageStatus) bool { return len(s.Texts) == recentMessages })
	bytes := l.Carried() - before
	fast.open("about:blank") // it must not take a part of the slow line

	p := loggedIn()
	l.Set(slow)
	began, before := time.Now(), l.Carried()
	needed := timeOnSlowLine(bytes)
	limit := needed*3/2 + 15*time.Second
	p.open(s.url + "/")
	const own = "desde lejos"
	posted := false
	var first, acknowledged, whole time.Duration // since began, 0: not yet
	online := 0                                  // polls in which the page said so too early
	var now pageStatus
	for whole == 0 {
		var err error
		if now, err = statusOf(p); err != nil {
			t.Fatal(err)
		}
		since := time.Since(began)
		old := len(slices.DeleteFunc(slices.Clone(now.Texts), func(text string) bool { return text == own }))
		if old > 0 && !posted {
			first, posted = since, true
			post(t, p, own)
		} else if posted && now.Pending == 0 && acknowledged == 0 {
			acknowledged = since
			if old >= recentMessages {
				t.Error("the page's own message was not acknowledged before the last of the earlier ones had arrived")
			}
		}
		switch {
		case old >= recentMessages:
			whole = since
		case now.State == "open":
			online++
		}
		if since > limit {
			t.Fatalf("after %v the page shows %d of %d messages, its state is %q, its own message is acknowledged: %v; the line "+
				"has carried %d bytes, and a page on a fast line needed %d", since, old, recentMessages, now.State, acknowledged > 0,
				l.Carried()-before, bytes)
		}
		time.Sleep(100 * time.Millisecond)
	}
	t.Logf("the page showed its first messages after %v and all after %v, its own was acknowledged after %v; %d bytes need %v, "+
		"the line carried %d", first, whole, acknowledged, bytes, needed, l.Carried()-before)
	if online > 0 {
		t.Errorf("the page said that it was online before it had all messages (%d times)", online)
	}
	awaitStatus(t, p, "online, with all messages", func(s pageStatus) bool {
		return s.State == "open" && s.Pending == 0 && len(s.Texts) == recentMessages+1 && s.Texts[recentMessages] == own
	})
}

// When the server's host goes silent, every page is on another connection within 30 s, without anybody typing. A message
// that was on its way, or whose acknowledgement was, arrives once.
func TestSilentHost(t *testing.T) {
	const limit = 30 * time.Second
	parallelPage(t)
	l := line.New(t, line.Config{})
	firefox := startFirefox(t)
	s := serveBehind(t, l, "--m", "CLUSTER", "-i", "2")
	ana := newUser(t, s.url, "ana")
	pages := []struct {
		name string
		scriptedPage
		posts bool
		back  time.Duration // since the silence, 0: not yet
	}{
		{name: "Chromium, idle", scriptedPage: newTab(t)},
		{name: "Chromium, with messages on their way", scriptedPage: newTab(t), posts: true},
		{name: "Firefox, idle", scriptedPage: firefox.newTab()},
		{name: "Firefox, with messages on their way", scriptedPage: firefox.newTab(), posts: true},
	}
	for _, p := range pages {
		p.open(s.url + "/login")
		submit(t, p, "#login-form", map[string]string{"email": ana.author.ID, "password": password})
		awaitStatus(t, p, p.name+": online", func(s pageStatus) bool { return s.State == "open" })
	}
	time.Sleep(2 * time.Second) // no page is still asking for something

	const delay = time.Second // long enough for the silence to fall between a message and its acknowledgement
	l.Set(line.Config{Delay: delay})
	for _, p := range pages {
		if p.posts {
			post(t, p, p.name+": acknowledgement lost")
		}
	}
	time.Sleep(delay * 3 / 2)
	for _, p := range pages {
		if p.posts {
			post(t, p, p.name+": message lost")
		}
	}
	l.Silence()
	silence := time.Now()
	l.Set(line.Config{})

	const news = "¿sigues ahí?"
	beto := openPage(t, newUser(t, s.url, "beto"), 0, s.url)
	beto.send(news)
	beto.awaitShown(t, 1)
	stored, _, _ := beto.count()
	t.Logf("stored %v after the silence: %d messages; the lost acknowledgements are of 2, one is beto's", time.Since(silence), stored)
	back := 0
	for back < len(pages) && time.Since(silence) < limit {
		for i := range pages {
			p := &pages[i]
			if p.back > 0 {
				continue
			}
			now, err := statusOf(p)
			if err != nil {
				t.Fatalf("%s: %v", p.name, err)
			}
			if slices.Contains(now.Texts, news) {
				p.back = time.Since(silence)
				back++
			}
		}
		time.Sleep(50 * time.Millisecond)
	}
	for _, p := range pages {
		now, err := statusOf(p)
		if p.back == 0 || err != nil {
			t.Errorf("%s: %v after the silence the page has not heard of a message; it shows %+v, %v", p.name, time.Since(silence), now, err)
			continue
		}
		t.Logf("%s: back after %v", p.name, p.back)
	}
	if t.Failed() {
		return
	}

	beto.awaitShown(t, 5)
	beto.mu.Lock()
	defer beto.mu.Unlock()
	var want []string
	for _, n := range beto.order {
		want = append(want, beto.shown[n].Text)
	}
	if sorted := slices.Sorted(slices.Values(want)); len(slices.Compact(sorted)) != 5 || len(want) != 5 {
		t.Errorf("beto's page shows %q, want each of 5 messages once", want)
	}
	for _, p := range pages {
		awaitStatus(t, p, p.name, func(s pageStatus) bool { return slices.Equal(s.Texts, want) && s.Pending == 0 })
	}
}
