package web

import (
	"context"
	"encoding/json"
	"errors"
	"runtime/debug"
	"strconv"
	"sync"
	"time"

	"github.com/fasthttp/websocket"
	"github.com/gofiber/fiber/v2"
	fiberws "github.com/gofiber/websocket/v2"
	"golang.org/x/sync/errgroup"
	"golang.org/x/time/rate"

	"balanza/services/chat"
	"balanza/services/store"
)

const (
	// largestFrame is enough for the longest message, whatever its characters. In bytes.
	largestFrame = 8 << 10
	// A page may send framesPerSecond for long and framesAtOnce after a rest.
	framesPerSecond = 20
	framesAtOnce    = 100

	pingEvery    = 25 * time.Second
	pongWait     = 60 * time.Second
	writeWait    = 10 * time.Second
	goodbyeWait  = time.Second // for the other end's close frame
	answersQueue = 8
	sayingAtOnce = 16               // messages of a page
	stayEvery    = 10 * time.Second // a crowd that talks would else cost as many writes as its messages

	sessionEnded = "session ended"
)

// fromPage is a message that a page sends.
type fromPage struct {
	Type     string `json:"type"` // message, or nothing
	Text     string `json:"text"`
	ClientID string `json:"clientId"`
}

// acknowledged answers a message that is stored.
type acknowledged struct {
	Type     string `json:"type"` // ack
	ClientID string `json:"clientId"`
	ID       int64  `json:"id"`
}

// refused answers a frame that is not.
type refused struct {
	Type        string `json:"type"` // error
	ClientID    string `json:"clientId"`
	Codigo      int    `json:"codigo"`
	Descripcion string `json:"descripcion"`
}

// peer is the page at the other end of a websocket. Its reader is the handler's goroutine, its writer another one.
type peer struct {
	site    *Site
	conn    *websocket.Conn
	session store.Session
	author  store.Author
	texts   texts
	limit   *rate.Limiter

	after   int64 // the last entry that the page has
	answers chan []byte
	saying  errgroup.Group // the messages that are being stored
	staying sync.Mutex

	ending sync.Once
	ended  chan struct{} // closed when the connection is to end, for the reason that follows
	code   int           // of the close frame; 0: there is nobody to tell
	reason string
}

// socket upgrades a request of a logged-in page of this site to a websocket.
func (s *Site) socket(c *fiber.Ctx) error {
	if !fiberws.IsWebSocketUpgrade(c) {
		c.Set(fiber.HeaderUpgrade, "websocket")
		return &failure{status: fiber.StatusUpgradeRequired, code: codeInvalid, text: "error.upgrade"}
	}
	if !sameOrigin(c, c.Get(fiber.HeaderOrigin)) { // browsers do not keep other sites from opening websockets
		return crossSite
	}
	after, err := lastEntry(c)
	if err != nil {
		return err
	}
	if s.draining.Load() {
		return stopping
	}
	ctx, cancel := s.asking()
	defer cancel()
	session, err := s.session(ctx, c)
	if err != nil {
		return err
	}
	user, err := s.config.Store.User(ctx, session.Email)
	if errors.Is(err, store.ErrNotFound) {
		return loginNeeded
	}
	if err != nil {
		return err
	}
	p := &peer{
		site:    s,
		session: session,
		author:  user.Author,
		texts:   s.texts[lang(c)],
		limit:   rate.NewLimiter(framesPerSecond, framesAtOnce),
		after:   after,
		answers: make(chan []byte, answersQueue),
		ended:   make(chan struct{}),
	}
	p.saying.SetLimit(sayingAtOnce)
	return fiberws.New(func(pooled *fiberws.Conn) {
		p.conn = pooled.Conn // the outer one is used again for another client
		p.serve()
	}, fiberws.Config{WriteBufferPool: &writeBuffers})(c)
}

// lastEntry reads from the address which entry of the log a page has as its last one, 0 when it has none. In a frame of
// its own that could come late, and the page would be told again what it has.
func lastEntry(c *fiber.Ctx) (int64, error) {
	n, err := strconv.ParseInt(c.Query("after", "0"), 10, 64)
	if err != nil || n < 0 {
		return 0, invalid("after", "error.whole", "after")
	}
	return n, nil
}

var writeBuffers sync.Pool

// serve reads what the page sends until the connection ends. When it returns nothing uses the connection any more.
func (p *peer) serve() {
	defer func() {
		if r := recover(); r != nil {
			p.site.log.Error("panic in a websocket", "panic", r, "stack", string(debug.Stack()))
		}
	}()
	if !p.site.sockets.add(p) {
		p.end(websocket.CloseServiceRestart, "service restart")
		p.sayGoodbye()
		return
	}
	defer p.site.sockets.remove(p)
	listener, err := p.join()
	if err != nil {
		p.endAs(err)
		p.sayGoodbye()
		return
	}
	var writer sync.WaitGroup
	writer.Go(func() { p.write(listener) })
	defer func() {
		p.end(0, "")
		listener.Close()
		writer.Wait()
		_ = p.saying.Wait()
	}()

	p.conn.SetReadLimit(largestFrame)
	p.conn.SetPongHandler(func(string) error { return p.expect(pongWait) })
	_ = p.expect(pongWait)
	for {
		_, frame, err := p.conn.ReadMessage()
		if err != nil || p.hasEnded() {
			return
		}
		p.take(frame)
	}
}

// expect lets the connection end when nothing comes for that long, unless it is ending already.
func (p *peer) expect(wait time.Duration) error {
	if p.hasEnded() {
		return nil
	}
	return p.conn.SetReadDeadline(time.Now().Add(wait))
}

func (p *peer) hasEnded() bool {
	select {
	case <-p.ended:
		return true
	default:
		return false
	}
}

// end has the writer close the connection. The first reason counts.
func (p *peer) end(code int, reason string) {
	p.ending.Do(func() {
		p.code, p.reason = code, reason
		close(p.ended)
	})
}

// write sends what the chat tells, answers and pings until the connection ends.
func (p *peer) write(listener *chat.Listener) {
	ping := time.NewTicker(pingEvery)
	defer ping.Stop()
	told := listener.C
	for {
		var err error
		select {
		case <-p.ended:
			p.sayGoodbye()
			return
		case frame, open := <-told:
			if !open {
				p.endAs(listener.Err())
				told = nil
				continue
			}
			err = p.send(frame)
		case frame := <-p.answers:
			err = p.send(frame)
		case <-ping.C:
			err = p.conn.WriteControl(websocket.PingMessage, nil, time.Now().Add(writeWait))
		}
		if err != nil {
			p.end(0, "")
			_ = p.conn.Close() // wakes the reader
		}
	}
}

func (p *peer) send(frame []byte) error {
	_ = p.conn.SetWriteDeadline(time.Now().Add(writeWait))
	return p.conn.WriteMessage(websocket.TextMessage, frame)
}

// sayGoodbye sends the close frame and gives the other end a moment to answer, which the reader waits for.
func (p *peer) sayGoodbye() {
	if p.code != 0 {
		farewell := websocket.FormatCloseMessage(p.code, p.reason)
		_ = p.conn.WriteControl(websocket.CloseMessage, farewell, time.Now().Add(goodbyeWait))
	}
	_ = p.conn.SetReadDeadline(time.Now().Add(goodbyeWait))
}

// endAs ends the connection for the reason that the chat ended its listener, or did not make one.
func (p *peer) endAs(err error) {
	switch {
	case errors.Is(err, chat.ErrLoggedOut):
		p.end(websocket.ClosePolicyViolation, sessionEnded)
	case errors.Is(err, chat.ErrSlow):
		p.end(websocket.ClosePolicyViolation, "too slow")
	case errors.Is(err, store.ErrUnavailable):
		p.end(websocket.CloseTryAgainLater, "store unavailable")
	default:
		p.end(websocket.CloseServiceRestart, "service restart")
	}
}

// take does what a frame asks.
func (p *peer) take(frame []byte) {
	var f fromPage
	err := json.Unmarshal(frame, &f)
	switch {
	case !p.limit.Allow():
		p.refuse(f.ClientID, codeTooMany, "error.rate")
	case err != nil:
		p.refuse("", codeInvalid, "error.json")
	case f.Type == "message", f.Type == "" && f.ClientID != "":
		p.say(f)
	default:
		p.refuse(f.ClientID, codeInvalid, "error.frame")
	}
}

// join has the chat tell this page what it missed, and what comes.
func (p *peer) join() (*chat.Listener, error) {
	ctx, cancel := p.site.asking()
	defer cancel()
	return p.site.hub.Join(ctx, p.session.ID, p.after)
}

// say has a message stored and acknowledged. The next ones need not wait for it: they are stored together.
func (p *peer) say(f fromPage) {
	ctx, cancel := p.site.asking()
	stored := p.site.hub.Send(ctx, p.author, f.Text, f.ClientID)
	p.saying.Go(func() error {
		defer cancel()
		p.acknowledge(ctx, f, stored)
		return nil
	})
}

func (p *peer) acknowledge(ctx context.Context, f fromPage, stored func() (store.Entry, error)) {
	entry, err := stored()
	if wrong, ok := errors.AsType[*chat.InvalidError](err); ok {
		p.refuse(f.ClientID, codeInvalid, "error.message", wrong.Field)
		return
	}
	if err != nil {
		if !errors.Is(err, store.ErrUnavailable) {
			p.site.log.Error("message not stored", "error", err)
		}
		p.refuse(f.ClientID, codeUnavailable, "error.unavailable")
		return
	}
	p.answer(acknowledged{"ack", f.ClientID, entry.N})
	p.stay(ctx)
}

// stay moves the end of the session: who speaks is there.
func (p *peer) stay(ctx context.Context) {
	p.staying.Lock()
	defer p.staying.Unlock()
	if time.Until(p.session.Expires) > sessionLength-stayEvery {
		return
	}
	if err := p.site.touch(ctx, &p.session); err != nil {
		p.site.log.Warn("session not touched", "error", err)
	}
}

func (p *peer) refuse(clientID string, code int, text string, args ...any) {
	p.answer(refused{"error", clientID, code, p.texts.say(text, args...)})
}

// answer waits while the writer is busy, so that a page that sends without reading gets stuck itself, until a write
// fails.
func (p *peer) answer(v any) {
	frame, _ := json.Marshal(v) // strings and numbers: cannot fail
	select {
	case p.answers <- frame:
	case <-p.ended:
	}
}
