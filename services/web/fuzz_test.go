package web

import (
	"bufio"
	"bytes"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/gorilla/websocket"

	"balanza/services/eventlog"
	"balanza/services/limits"
	"balanza/services/processes"
	"balanza/services/store"
	"balanza/services/store/sqlitestore"
)

// fuzzedSite is a site with one user, whose session has the cookie, and with budgets that are never used up.
type fuzzedSite struct {
	*Site
	cookie *http.Cookie
	logged *errorLog
}

func newFuzzedSite(f *testing.F) fuzzedSite {
	f.Helper()
	db, err := sqlitestore.Open(f.Context(), filepath.Join(f.TempDir(), "balanza.db"))
	if err != nil {
		f.Fatal(err)
	}
	f.Cleanup(func() { db.Close() })
	logged := &errorLog{Handler: slog.DiscardHandler}
	logger := slog.New(logged)
	clock := store.NewClock(db, logger)
	log := eventlog.New(db, clock, func() int { return 1 })
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan struct{})
	go func() { _ = log.Run(ctx); close(ended) }()
	f.Cleanup(func() { cancel(); <-ended })

	most := limits.Default()
	most.Products, most.ProductChanges, most.Logins, most.LoginFailures, most.Signups = 1e9, 1e9, 1e9, 1e9, 1e9
	most.Websockets, most.Messages, most.Frames = 1e5, 1e9, 1e9
	site, err := New(Config{
		Store: db, Clock: clock, Log: log, Processes: processes.New(db, clock, store.Process{}), Logger: logger, Limits: most,
		Process: testProcess(),
	})
	if err != nil {
		f.Fatal(err)
	}
	site.started.Store(true)
	addUser(f, db, "ana@example.org")
	return fuzzedSite{site, addSession(f, db, "ana@example.org"), logged}
}

// errorLog is a log handler that keeps the last error: a panic in a handler, or an internal error.
type errorLog struct {
	slog.Handler
	last atomic.Value // string
}

func (h *errorLog) Enabled(_ context.Context, level slog.Level) bool { return level >= slog.LevelError }

func (h *errorLog) Handle(_ context.Context, r slog.Record) error {
	text := r.Message
	r.Attrs(func(a slog.Attr) bool { text += " " + a.String(); return true })
	h.last.Store(text)
	return nil
}

// sentConn is a connection whose client has sent input and then closed its side. It keeps what the server answers.
type sentConn struct {
	net.Conn
	input  io.Reader
	output bytes.Buffer
}

func (c *sentConn) Read(p []byte) (int, error)       { return c.input.Read(p) }
func (c *sentConn) Write(p []byte) (int, error)      { return c.output.Write(p) }
func (c *sentConn) Close() error                     { return nil }
func (c *sentConn) SetDeadline(time.Time) error      { return nil }
func (c *sentConn) SetReadDeadline(time.Time) error  { return nil }
func (c *sentConn) SetWriteDeadline(time.Time) error { return nil }
func (c *sentConn) LocalAddr() net.Addr              { return &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: 8080} }
func (c *sentConn) RemoteAddr() net.Addr {
	return &net.TCPAddr{IP: net.IPv4(127, 0, 0, 2), Port: 50000}
}

// exchange lets the site serve a connection and returns all that it answers. A logged error fails the test.
func (s fuzzedSite) exchange(t *testing.T, input []byte) []byte {
	c := &sentConn{input: bytes.NewReader(input)}
	_ = s.app.Server().ServeConn(c) // its error is the client's
	if text := s.logged.last.Swap(""); text != nil && text != "" {
		t.Errorf("%.2000q\nmakes the log say: %v", input, text)
	}
	return c.output.Bytes()
}

var serverError = regexp.MustCompile(`HTTP/1\.1 5\d\d [A-Z]`)

// FuzzHTTP sends arbitrary bytes to the site. Whatever they are, it answers each request that it can make out, never with a
// 5xx, and each answer names the process and forbids sniffing. No seed draws random numbers: a mutated one would draw 100
// million at each execution.
func FuzzHTTP(f *testing.F) {
	site := newFuzzedSite(f)
	for _, seed := range []string{
		"GET /info HTTP/1.1\r\nHost: localhost\r\n\r\n",
		"GET /assets/chat.js?v=1 HTTP/1.1\r\nHost: localhost\r\n\r\nGET /login HTTP/1.0\r\n\r\n",
		"GET / HTTP/1.1\r\nHost: localhost\r\nCookie: " + site.cookie.String() + "\r\nAccept: text/html;q=0.9,*/*\r\n\r\n",
		"POST /api/productos HTTP/1.1\r\nHost: localhost\r\nCookie: " + site.cookie.String() +
			"\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{}",
		"POST /login HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/x-www-form-urlencoded\r\n" +
			"Transfer-Encoding: chunked\r\n\r\n7\r\nemail=a\r\n0\r\n\r\n",
		"GET /ws?after=1 HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n" +
			"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n",
		"BREW /caf%C3%A9 HTTP/1.1\r\nHost: localhost\r\nX-Forwarded-For: 1.2.3.4, , \r\nX-Request-Id: \x00\r\n\r\n",
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, input []byte) {
		answers := site.exchange(t, input)
		if serverError.Match(answers) {
			t.Errorf("%.2000q\nis answered with\n%.2000q", input, answers)
		}
		if len(answers) == 0 {
			return
		}
		first, err := http.ReadResponse(bufio.NewReader(bytes.NewReader(answers)), nil)
		if err != nil {
			t.Fatalf("no answer: %v\n%.2000q", err, answers)
		}
		if first.StatusCode >= 200 && (first.Header.Get("X-Content-Type-Options") != "nosniff" || first.Header.Get("X-Balanza-Pid") == "") {
			t.Errorf("headers are missing: %v", first.Header)
		}
	})
}

var (
	decimalText = regexp.MustCompile(`^-?(\d+(\.\d+)?|\.\d+)([eE][+-]?\d+)?$`)
	replacement = string(utf8.RuneError)
)

// FuzzProductJSON sends arbitrary bodies to the products' interface. What is stored is exactly what the body says: text is
// refused or kept, never repaired.
func FuzzProductJSON(f *testing.F) {
	site := newFuzzedSite(f)
	for _, seed := range []string{
		`{"nombre":"Mate","precio":1234.5,"foto":"https://example.org/mate.png"}`,
		`{"nombre":"\ud83e\uddc9 mate","precio":"12","foto":"https://example.org/a?b=c#d"}`,
		`{"nombre":"\ud800","precio":1e3,"foto":"https://example.org/"}`,
		"{\"nombre\":\"caf\xe9\",\"precio\":0x1p4,\"foto\":\"https://example.org/\"}",
		`{"nombre":"a","nombre":"b","precio":"1_000","foto":"http://localhost/logout"}`,
		`[]`, `null`, `{"precio":-0}`, `{"nombre":{},"precio":[],"foto":1}`,
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		request, err := http.NewRequest(http.MethodPost, "http://localhost/api/productos", bytes.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		request.AddCookie(site.cookie)
		request.Header.Set("Content-Type", "application/json")
		var wire bytes.Buffer
		if err := request.Write(&wire); err != nil {
			t.Fatal(err)
		}
		answer, err := http.ReadResponse(bufio.NewReader(bytes.NewReader(site.exchange(t, wire.Bytes()))), request)
		if err != nil {
			t.Fatal(err)
		}
		switch answer.StatusCode {
		case http.StatusCreated:
		case http.StatusBadRequest, http.StatusRequestEntityTooLarge:
			return
		default:
			t.Fatalf("%q is answered with %s", body, answer.Status)
		}
		var sent map[string]any
		decoder := json.NewDecoder(bytes.NewReader(body))
		decoder.UseNumber()
		if err := decoder.Decode(&sent); err != nil || !utf8.Valid(body) {
			t.Fatalf("%q is accepted: %v", body, err)
		}
		var stored store.Product
		if err := json.NewDecoder(answer.Body).Decode(&stored); err != nil {
			t.Fatal(err)
		}
		name, _ := sent["nombre"].(string)
		photo, _ := sent["foto"].(string)
		if stored.Nombre != strings.TrimSpace(name) || stored.Foto != strings.TrimSpace(photo) {
			t.Errorf("%q is stored as %+v", body, stored)
		}
		if strings.Contains(stored.Nombre+stored.Foto, replacement) &&
			!bytes.Contains(body, []byte(replacement)) && !bytes.Contains(bytes.ToLower(body), []byte(`\ufffd`)) {
			t.Errorf("%q is repaired to %+v", body, stored)
		}
		number, _ := sent["precio"].(string)
		if n, ok := sent["precio"].(json.Number); ok {
			number = n.String()
		}
		if !decimalText.MatchString(strings.TrimSpace(number)) {
			t.Errorf("the price %q is stored as %v", number, stored.Precio)
		}
	})
}

// fuzzedSocket is a websocket to which arbitrary frames are sent. It is opened again after the site has closed it.
type fuzzedSocket struct {
	address string
	cookie  *http.Cookie
	conn    *websocket.Conn
	probes  int
}

// open opens the websocket unless it is open.
func (s *fuzzedSocket) open(t *testing.T) {
	if s.conn != nil {
		return
	}
	header := http.Header{"Cookie": {s.cookie.String()}, "Origin": {"http://" + s.address}}
	conn, _, err := websocket.DefaultDialer.Dial("ws://"+s.address+"/ws", header)
	if err != nil {
		t.Fatal(err)
	}
	s.conn = conn
}

// probe is the text of the message that follows each frame. Messages are stored in order: when it is acknowledged, what the
// frame has brought is stored.
const probe = "probe"

// send sends a frame of one byte of flags and a payload, which is masked with zeros. It returns when what the frame has brought
// is stored, or the site has closed the websocket.
func (s *fuzzedSocket) send(t *testing.T, flags byte, payload []byte) {
	s.open(t)
	frame := []byte{flags}
	if len(payload) < 126 {
		frame = append(frame, 0x80|byte(len(payload)))
	} else {
		frame = binary.BigEndian.AppendUint64(append(frame, 0x80|127), uint64(len(payload)))
	}
	frame = append(append(frame, 0, 0, 0, 0), payload...)
	s.probes++
	id := fmt.Sprintf("%s-%d-%d", probe, os.Getpid(), s.probes)
	_, err := s.conn.NetConn().Write(frame)
	if err == nil {
		err = s.conn.WriteMessage(websocket.TextMessage, fmt.Appendf(nil, `{"text":%q,"clientId":%q}`, probe, id))
	}
	_ = s.conn.SetReadDeadline(time.Now().Add(20 * time.Second))
	for err == nil {
		var answer struct{ Type, ClientID string }
		if err = s.conn.ReadJSON(&answer); err == nil && answer.Type == "ack" && answer.ClientID == id {
			return
		}
	}
	if _, ok := errors.AsType[*websocket.CloseError](err); ok {
		_, err = io.Copy(io.Discard, s.conn.NetConn()) // the site closes the connection when nothing is being stored
	}
	if e, ok := errors.AsType[net.Error](err); ok && e.Timeout() {
		t.Errorf("the frame %x %.2000q gets no answer", flags, payload)
	}
	s.conn.Close()
	s.conn = nil
}

// field is a field as encoding/json finds it: the case of its name does not count.
func field(object map[string]any, name string) any {
	for key, value := range object {
		if strings.EqualFold(key, name) {
			return value
		}
	}
	return nil
}

// FuzzWebsocket sends arbitrary frames. A message is stored exactly as its frame says, and nothing else is stored.
func FuzzWebsocket(f *testing.F) {
	site := newFuzzedSite(f)
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		f.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- site.Serve(ctx, ln) }()
	f.Cleanup(func() { stop(); <-ended })
	const text = 0x80 | websocket.TextMessage
	for payload, flags := range map[string]byte{
		`{"text":"hola","clientId":"a"}`:                                   text,
		`{"type":"message","text":"\ud83e\uddc9","clientId":"b"}`:          text,
		`{"text":"\ud800","clientId":"c"}`:                                 text,
		"{\"text\":\"caf\xe9\",\"clientId\":\"d\"}":                        text,
		`{"text":"a","text":"b","clientId":"e","clientId":"f","Text":"c"}`: text,
		`{"text":{"$gt":""},"clientId":7}`:                                 text,
		`{"Text":"a","CLIENTID":"g"}`:                                      text,
		"\x03\xe8":                                                         0x80 | websocket.CloseMessage,
		"ping":                                                             0x80 | websocket.PingMessage,
		"part":                                                             websocket.TextMessage,
		"binary":                                                           0x80 | websocket.BinaryMessage,
	} {
		f.Add(flags, []byte(payload))
	}
	socket := &fuzzedSocket{address: ln.Addr().String(), cookie: site.cookie}
	f.Fuzz(func(t *testing.T, flags byte, payload []byte) {
		before, err := site.config.Store.Last(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		socket.send(t, flags, payload)
		if logged := site.logged.last.Swap(""); logged != nil && logged != "" {
			t.Errorf("%x %.2000q\nmakes the log say: %v", flags, payload, logged)
		}
		stored, err := site.config.Store.After(t.Context(), before, 10)
		if err != nil {
			t.Fatal(err)
		}
		stored = slices.DeleteFunc(stored, func(e store.Entry) bool { return e.Message != nil && strings.HasPrefix(e.ClientID, probe) })
		for _, e := range stored {
			var sent map[string]any
			if err := json.Unmarshal(payload, &sent); err != nil || !utf8.Valid(payload) || flags != text {
				t.Fatalf("%x %.2000q is stored: %v", flags, payload, err)
			}
			if e.Message == nil || e.Message.Text != field(sent, "text") || e.ClientID != field(sent, "clientId") {
				t.Errorf("%.2000q is stored as %+v", payload, e.Message)
			}
			if strings.Contains(e.Message.Text+e.ClientID, replacement) &&
				!bytes.Contains(payload, []byte(replacement)) && !bytes.Contains(bytes.ToLower(payload), []byte(`\ufffd`)) {
				t.Errorf("%.2000q is repaired to %q", payload, e.Message.Text)
			}
		}
		if len(stored) > 1 {
			t.Errorf("%.2000q: %d messages are stored", payload, len(stored))
		}
	})
}
