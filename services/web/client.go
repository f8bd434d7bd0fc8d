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
	maxFrame        = 8 << 10 // bytes; the longest message fits, whatever its characters
	framesPerSecond = 20      // of one page, on average
	frameBurst      = 100     // frames of one page, at once

	pingInterval = 25 * time.Second // shorter than the idle timeouts of proxies
	pongTimeout  = 60 * time.Second // two pings may be lost
	writeTimeout = 10 * time.Second // of one frame
	closeTimeout = time.Second      // for the page's answer to a close frame
	replyQueue   = 8                // frames: replies that wait for the writer
	maxPending   = 16               // messages of one page that are being stored
	// messageTouchInterval limits how often messages extend a session: otherwise each would cost two writes.
	messageTouchInterval = 10 * time.Second

	sessionEnded = "session ended"
)

// inboundFrame is a message that a page sends.
type inboundFrame struct {
	Type     string `json:"type"` // message, or nothing
	Text     string `json:"text"`
	ClientID string `json:"clientId"`
}

// ackFrame acknowledges a message that is stored. A repeated message gets the number that it got at first.
type ackFrame struct {
	Type     string `json:"type"` // ack
	ClientID string `json:"clientId"`
	ID       int64  `json:"id"`
}

// errorFrame says why a frame was not accepted, or why its message is not known to be stored.
type errorFrame struct {
	Type        string `json:"type"` // error
	ClientID    string `json:"clientId"`
	Codigo      int    `json:"codigo"`
	Descripcion string `json:"descripcion"`
}

// client is a page at the other end of a websocket. The handler's goroutine reads, another one writes, and each message
// that is being stored has one. A websocket allows one reader and one writer at a time; control frames are exempt.
type client struct {
	site    *Site
	conn    *websocket.Conn
	session store.Session
	author  store.Author
	texts   texts
	limit   *rate.Limiter

	after    int64 // number of the last entry that the page has
	replies  chan []byte
	pending  errgroup.Group // messages that are being stored
	touching sync.Mutex     // guards session.Expires

	// ctx ends when the connection is to end. Its cause is a *websocket.CloseError when a close frame is to be sent.
	ctx    context.Context
	cancel context.CancelCauseFunc
}

// checkUpgrade wraps openWebsocket: it rejects requests that are no upgrade, that come from pages of other sites, which
// browsers let open websockets to any server, and that come after the start of the drain.
func (s *Site) checkUpgrade(h fiber.Handler) fiber.Handler {
	return func(c *fiber.Ctx) error {
		switch {
		case !fiberws.IsWebSocketUpgrade(c):
			c.Set(fiber.HeaderUpgrade, "websocket")
			return &httpError{status: fiber.StatusUpgradeRequired, code: codeInvalid, text: "error.upgrade"}
		case !sameOrigin(c, c.Get(fiber.HeaderOrigin)):
			return errCrossSite
		case s.draining.Load():
			return errStopping
		}
		return h(c)
	}
}

// openWebsocket upgrades a request of a logged-in page of this site to a websocket.
func (s *Site) openWebsocket(ctx context.Context, c *fiber.Ctx, session store.Session) error {
	after, err := lastEntry(c)
	if err != nil {
		return err
	}
	user, err := s.config.Store.User(ctx, session.Email)
	if errors.Is(err, store.ErrNotFound) {
		return errLoginRequired
	}
	if err != nil {
		return err
	}
	cl := &client{
		site:    s,
		session: session,
		author:  user.Author,
		texts:   s.texts[lang(c)],
		limit:   rate.NewLimiter(framesPerSecond, frameBurst),
		after:   after,
		replies: make(chan []byte, replyQueue),
	}
	cl.ctx, cl.cancel = context.WithCancelCause(context.Background())
	cl.pending.SetLimit(maxPending)
	return fiberws.New(func(pooled *fiberws.Conn) {
		cl.conn = pooled.Conn // the outer one goes back to a pool, and serves another client
		cl.serve()
	}, fiberws.Config{WriteBufferPool: &writeBuffers})(c)
}

// lastEntry reads from the query the number of the last entry that a page has, 0 when it has none. A frame with this
// number could come too late, and the page would get entries twice.
func lastEntry(c *fiber.Ctx) (int64, error) {
	n, err := strconv.ParseInt(c.Query("after", "0"), 10, 64)
	if err != nil || n < 0 {
		return 0, invalid("after", "error.whole", "after")
	}
	return n, nil
}

// writeBuffers are shared among all websockets: an idle one holds no buffer for writing.
var writeBuffers sync.Pool

// serve reads the page's frames until the connection ends. When it returns no goroutine uses the connection any more:
// fasthttp then closes it, and its buffers serve others.
func (c *client) serve() {
	defer c.recoverPanic()
	if !c.site.clients.add(c) {
		c.end(websocket.CloseServiceRestart, "service restart")
		c.sendClose()
		return
	}
	defer c.site.clients.remove(c)
	listener, err := c.join()
	if err != nil {
		c.endWithError(err)
		c.sendClose()
		return
	}
	var writer sync.WaitGroup
	writer.Go(func() {
		defer c.recoverPanic()
		c.write(listener)
	})
	defer func() {
		c.cancel(nil)
		listener.Close()
		writer.Wait()
		_ = c.pending.Wait()
	}()
	defer c.recoverPanic() // earlier than the function above, which waits for the writer

	c.conn.SetReadLimit(maxFrame)
	c.conn.SetPongHandler(func(string) error { return c.extendReadDeadline() })
	_ = c.extendReadDeadline()
	for {
		_, frame, err := c.conn.ReadMessage()
		if err != nil || c.ctx.Err() != nil {
			return
		}
		c.handleFrame(frame)
	}
}

// recoverPanic ends the connection in which a goroutine has panicked. Neither fasthttp nor the websocket's package
// recovers, so every goroutine of a connection defers it: without it the whole process would end.
func (c *client) recoverPanic() {
	if r := recover(); r != nil {
		c.site.log.Error("panic in a websocket", "panic", r, "stack", string(debug.Stack()))
		c.end(websocket.CloseInternalServerErr, "internal error")
		c.sendClose() // the writer may be the goroutine that has panicked
	}
}

// extendReadDeadline gives the page pongTimeout to send something, unless the connection is ending.
func (c *client) extendReadDeadline() error {
	if c.ctx.Err() != nil {
		return nil
	}
	return c.conn.SetReadDeadline(time.Now().Add(pongTimeout))
}

// end makes the writer send a close frame (RFC 6455, 7.4.1) and close the connection. The first call decides the code
// and the reason.
func (c *client) end(code int, reason string) {
	c.cancel(&websocket.CloseError{Code: code, Text: reason})
}

// write sends the chat's frames, replies and pings until the connection ends. It goes on after the end of the chat's
// frames, for the close frame.
func (c *client) write(listener *chat.Listener) {
	ping := time.NewTicker(pingInterval)
	defer ping.Stop()
	frames := listener.C
	for {
		var err error
		select {
		case <-c.ctx.Done():
			c.sendClose()
			return
		case frame, open := <-frames:
			if !open {
				c.endWithError(listener.Err())
				frames = nil
				continue
			}
			err = c.send(frame)
		case frame := <-c.replies:
			err = c.send(frame)
		case <-ping.C:
			err = c.conn.WriteControl(websocket.PingMessage, nil, time.Now().Add(writeTimeout))
		}
		if err != nil {
			c.cancel(nil)
			_ = c.conn.Close() // ends the reader
		}
	}
}

// send writes a text frame; only the writer may call it. A page that does not read makes it fail after writeTimeout.
func (c *client) send(frame []byte) error {
	_ = c.conn.SetWriteDeadline(time.Now().Add(writeTimeout))
	return c.conn.WriteMessage(websocket.TextMessage, frame)
}

// sendClose sends the close frame, if the connection ends with one, and limits the time in which the reader waits for
// the page's answer. Only the first close frame of a connection reaches the page.
func (c *client) sendClose() {
	if frame, ok := errors.AsType[*websocket.CloseError](context.Cause(c.ctx)); ok {
		message := websocket.FormatCloseMessage(frame.Code, frame.Text)
		_ = c.conn.WriteControl(websocket.CloseMessage, message, time.Now().Add(closeTimeout))
	}
	_ = c.conn.SetReadDeadline(time.Now().Add(closeTimeout))
}

// endWithError ends the connection with the close code for an error of the chat (RFC 6455, 7.4.1). Pages connect again
// at once after "service restart", after a pause after "try again later", and not at all after a policy violation.
func (c *client) endWithError(err error) {
	switch {
	case errors.Is(err, chat.ErrLoggedOut):
		c.end(websocket.ClosePolicyViolation, sessionEnded)
	case errors.Is(err, chat.ErrSlow):
		c.end(websocket.ClosePolicyViolation, "too slow")
	case errors.Is(err, store.ErrUnavailable):
		c.end(websocket.CloseTryAgainLater, "store unavailable")
	default:
		c.end(websocket.CloseServiceRestart, "service restart")
	}
}

// handleFrame checks a frame and sends its message. A frame that breaks the rate limit is decoded too: the reply names
// its clientId, and the page repeats that message later.
func (c *client) handleFrame(frame []byte) {
	var f inboundFrame
	err := json.Unmarshal(frame, &f)
	switch {
	case !c.limit.Allow():
		c.replyError(f.ClientID, codeTooMany, "error.rate")
	case err != nil:
		c.replyError("", codeInvalid, "error.json")
	case f.Type == "message", f.Type == "" && f.ClientID != "":
		c.sendMessage(f)
	default:
		c.replyError(f.ClientID, codeInvalid, "error.frame")
	}
}

// join subscribes the page to the chat, from the entry after the last one that it has. It fails with
// store.ErrUnavailable, and then the page connects again.
func (c *client) join() (*chat.Listener, error) {
	ctx, cancel := c.site.storeContext()
	defer cancel()
	return c.site.hub.Join(ctx, c.session.ID, c.after)
}

// sendMessage stores a message and acknowledges it, without waiting: messages that follow are stored in the same batch.
func (c *client) sendMessage(f inboundFrame) {
	ctx, cancel := c.site.storeContext()
	stored := c.site.hub.Send(ctx, c.author, f.Text, f.ClientID)
	c.pending.Go(func() error {
		defer c.recoverPanic()
		defer cancel()
		c.acknowledge(ctx, f, stored)
		return nil
	})
}

// acknowledge waits until the message is stored, and replies with its number or with the error. After codeUnavailable the
// message may be stored or not: the page repeats it, and its clientId keeps it from being stored twice.
func (c *client) acknowledge(ctx context.Context, f inboundFrame, stored func() (store.Entry, error)) {
	entry, err := stored()
	if e, ok := errors.AsType[*chat.InvalidError](err); ok {
		c.replyError(f.ClientID, codeInvalid, "error.message", e.Field)
		return
	}
	if err != nil {
		if !errors.Is(err, store.ErrUnavailable) {
			c.site.log.Error("message not stored", "error", err)
		}
		c.replyError(f.ClientID, codeUnavailable, "error.unavailable")
		return
	}
	c.reply(ackFrame{"ack", f.ClientID, entry.N})
	c.touchSession(ctx)
}

// touchSession extends the session of a user who sends messages, at most once in messageTouchInterval.
func (c *client) touchSession(ctx context.Context) {
	c.touching.Lock()
	defer c.touching.Unlock()
	if time.Until(c.session.Expires) > sessionLength-messageTouchInterval {
		return
	}
	if err := c.site.touchSession(ctx, &c.session); err != nil {
		c.site.log.Warn("session not extended", "error", err)
	}
}

// replyError queues an error frame; text is a key of the texts.
func (c *client) replyError(clientID string, code int, text string, args ...any) {
	c.reply(errorFrame{"error", clientID, code, c.texts.format(text, args...)})
}

// reply queues a frame. It waits while the queue is full: a page that sends without reading is not read either, until a
// write to it fails.
func (c *client) reply(v any) {
	frame, _ := json.Marshal(v) // strings and numbers: cannot fail
	select {
	case c.replies <- frame:
	case <-c.ctx.Done():
	}
}
