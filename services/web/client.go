package web

import (
	"context"
	"encoding/json"
	"errors"
	"math/rand/v2"
	"runtime/debug"
	"strconv"
	"sync"
	"time"

	"github.com/fasthttp/websocket"
	"github.com/gofiber/fiber/v2"
	"golang.org/x/time/rate"

	"balanza/services/chat"
	"balanza/services/store"
)

const (
	maxFrame        = 8 << 10 // bytes; the longest message fits, whatever its characters
	framesPerSecond = 20      // of one page, on average
	frameBurst      = 100     // frames of one page, at once

	aliveInterval = 15 * time.Second // between two pings: shorter than a page's silence timer and proxies' idle timeouts
	pongTimeout   = 60 * time.Second // three pings may be lost
	writeTimeout  = 30 * time.Second // of one frame, which is at most 16 KiB long
	closeTimeout  = time.Second      // for the page's answer to a close frame
	replyQueue    = 8                // replies that may wait for the writer before no more frames are read
	maxPending    = 16               // messages of one page that are being stored
	// messageTouchInterval limits how often messages extend a session: otherwise each would cost two writes.
	messageTouchInterval = 10 * time.Second

	sessionEnded = "session ended"
)

// aliveFrame shows a page's script that its connection works: it cannot see pings.
var aliveFrame = []byte(`{"type":"alive"}`)

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

// client is a page at the other end of a websocket. One goroutine reads; another one writes, which runs only while there is
// something to write; each message that is being stored has one. A websocket allows one reader and one writer at a time;
// control frames are exempt.
type client struct {
	site     *Site
	conn     *websocket.Conn
	session  store.Session
	author   store.Author
	texts    texts
	limit    *rate.Limiter
	after    int64          // number of the last entry that the page has
	listener *chat.Listener // set before the first writer starts

	touching sync.Mutex // guards session.Expires

	mu         sync.Mutex // may be locked while chat's locks are held
	changed    sync.Cond  // on mu: replies or pending became fewer, or ended was set
	replies    [][]byte   // frames that precede those of the chat
	pending    int        // messages that are being stored
	writing    bool       // a writer runs, or must not run yet
	ended      bool       // the connection is to end
	closeFrame []byte     // to be sent at the end; nil: none, or sent already
}

// checkUpgrade wraps openWebsocket: it rejects requests that are no upgrade, that come from pages of other sites, which
// browsers let open websockets to any server, and that come after the start of the drain.
func (s *Site) checkUpgrade(h fiber.Handler) fiber.Handler {
	return func(c *fiber.Ctx) error {
		switch {
		case !isUpgrade(c):
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
		writing: true,
	}
	cl.changed.L = &cl.mu
	s.upgrader.upgrade(c, cl)
	return nil
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

// serve reads the page's frames until the connection ends.
func (c *client) serve() {
	defer c.fail()
	defer c.recoverPanic()
	if !c.site.clients.add(c) {
		c.end(websocket.CloseServiceRestart, "service restart")
		c.sendClose()
		return
	}
	defer c.site.clients.remove(c)
	if err := c.join(); err != nil {
		c.end(closeReason(err))
		c.sendClose()
		return
	}
	defer c.waitPending()
	defer c.listener.Close()
	go c.write()
	time.AfterFunc(rand.N(aliveInterval), c.sendAlive) // after a reload thousands of pages come at once

	c.conn.SetReadLimit(maxFrame)
	c.conn.SetPongHandler(func(string) error { c.extendReadDeadline(); return nil })
	c.extendReadDeadline()
	for {
		_, frame, err := c.conn.ReadMessage()
		if err != nil {
			return
		}
		if c.waitForRoom() { // else the page's answer to the close frame is awaited
			c.handleFrame(frame)
		}
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
func (c *client) extendReadDeadline() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.ended {
		_ = c.conn.SetReadDeadline(time.Now().Add(pongTimeout))
	}
}

// waitForRoom waits while too many messages are being stored or too many replies wait: a page that sends without reading
// is not read either, until a write to it fails. It returns false when the connection is ending.
func (c *client) waitForRoom() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	for !c.ended && (c.pending >= maxPending || len(c.replies) >= replyQueue) {
		c.changed.Wait()
	}
	return !c.ended
}

// addPending counts the messages that are being stored.
func (c *client) addPending(delta int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.pending += delta
	c.changed.Broadcast()
}

// waitPending waits until no message is being stored: the store is closed after the last client has ended.
func (c *client) waitPending() {
	c.mu.Lock()
	defer c.mu.Unlock()
	for c.pending > 0 {
		c.changed.Wait()
	}
}

// end makes the writer send a close frame (RFC 6455, 7.4.1) next. The first call decides the code and the reason.
func (c *client) end(code int, reason string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.endLocked(code, reason)
	c.startWriter()
}

func (c *client) endLocked(code int, reason string) {
	if !c.ended {
		c.ended, c.closeFrame = true, websocket.FormatCloseMessage(code, reason)
		c.changed.Broadcast()
	}
}

// fail ends the connection at once, without a close frame.
func (c *client) fail() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.ended, c.closeFrame = true, nil
	c.changed.Broadcast()
	_ = c.conn.Close() // ends the reader and the writer
}

// wake lets a writer send what the listener has. The chat calls it.
func (c *client) wake() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.startWriter()
}

// startWriter starts a writer unless there is one. mu is locked.
func (c *client) startWriter() {
	if !c.writing {
		c.writing = true
		go c.write()
	}
}

// write sends the frames that wait, and at last the close frame if the connection is to end.
func (c *client) write() {
	defer c.recoverPanic()
	for {
		frame, ended := c.next()
		if ended {
			c.sendClose()
			return
		}
		if frame == nil {
			return
		}
		_ = c.conn.SetWriteDeadline(time.Now().Add(writeTimeout))
		if err := c.conn.WriteMessage(websocket.TextMessage, frame); err != nil {
			c.fail()
			return
		}
	}
}

// next returns the frame that the writer is to send; without one the writer must return. A reply precedes the frames of the
// chat: on a slow line these may take minutes, in which the page would repeat its message.
func (c *client) next() (frame []byte, ended bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case c.ended: // writing stays set, so that no other writer starts
		return nil, true
	case len(c.replies) > 0:
		frame, c.replies = c.replies[0], c.replies[1:]
		c.changed.Broadcast()
		return frame, false
	}
	c.replies = nil // frees the array
	frame, err := c.listener.Next()
	if err != nil {
		c.endLocked(closeReason(err))
		return nil, true
	}
	c.writing = frame != nil
	return frame, false
}

// sendClose sends the close frame, unless that was done, and limits the time in which the reader waits for the page's answer.
func (c *client) sendClose() {
	c.mu.Lock()
	frame := c.closeFrame
	c.closeFrame = nil
	c.mu.Unlock()
	if frame != nil {
		_ = c.conn.WriteControl(websocket.CloseMessage, frame, time.Now().Add(closeTimeout))
		_ = c.conn.SetReadDeadline(time.Now().Add(closeTimeout))
	}
}

// sendAlive sends a frame, so that the page hears something, and a ping, whose answer shows that the page lives. It does so
// every aliveInterval until the connection ends.
func (c *client) sendAlive() {
	defer c.recoverPanic()
	c.send(aliveFrame)
	if err := c.conn.WriteControl(websocket.PingMessage, nil, time.Now().Add(writeTimeout)); err != nil {
		c.fail()
		return
	}
	time.AfterFunc(aliveInterval, c.sendAlive)
}

// closeReason returns the close code and the reason for an error of the chat (RFC 6455, 7.4.1). Pages connect again at once
// after "service restart", after a pause after "try again later", and not at all after a policy violation.
func closeReason(err error) (code int, reason string) {
	switch {
	case errors.Is(err, chat.ErrLoggedOut):
		return websocket.ClosePolicyViolation, sessionEnded
	case errors.Is(err, chat.ErrSlow):
		return websocket.ClosePolicyViolation, "too slow"
	case errors.Is(err, store.ErrUnavailable):
		return websocket.CloseTryAgainLater, "store unavailable"
	default:
		return websocket.CloseServiceRestart, "service restart"
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
func (c *client) join() (err error) {
	ctx, cancel := c.site.storeContext()
	defer cancel()
	c.listener, err = c.site.hub.Join(ctx, c.session.ID, c.after, c.wake)
	return err
}

// sendMessage stores a message and acknowledges it, without waiting: messages that follow are stored in the same batch.
func (c *client) sendMessage(f inboundFrame) {
	ctx, cancel := c.site.storeContext()
	stored := c.site.hub.Send(ctx, c.author, f.Text, f.ClientID)
	c.addPending(1)
	go func() {
		defer c.addPending(-1)
		defer c.recoverPanic()
		defer cancel()
		c.acknowledge(ctx, f, stored)
	}()
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

// reply sends a value as JSON.
func (c *client) reply(v any) {
	frame, _ := json.Marshal(v) // strings and numbers: cannot fail
	c.send(frame)
}

// send queues a frame, before those of the chat.
func (c *client) send(frame []byte) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.ended {
		c.replies = append(c.replies, frame)
		c.startWriter()
	}
}
