package web

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"math"
	"math/rand/v2"
	"runtime/debug"
	"sync"
	"time"
	"unicode/utf8"

	"github.com/fasthttp/websocket"
	"github.com/gofiber/fiber/v2"

	"balanza/services/chat"
	"balanza/services/store"
)

const (
	// maxFrame is the greatest length of a frame in bytes. The longest message fits in any spelling of JSON: a character
	// takes up to two escapes of six bytes, and so does each byte of an id or a key.
	maxFrame  = 2*escapeLength*chat.MaxText + escapeLength*chat.MaxClientID + maxFields
	maxFields = 512 // of the keys, the type and the signs between them

	escapeLength = 6

	aliveInterval = 15 * time.Second // between two pings: shorter than a page's silence timer and proxies' idle timeouts
	pongTimeout   = 60 * time.Second // three pings may be lost
	closeTimeout  = time.Second      // for the page's answer to a close frame
	replyQueue    = 8                // replies that may wait for the writer before no more frames are read
	maxPending    = 16               // messages of one page that are being stored
	// messageTouchInterval limits how often messages extend a session: otherwise each would cost two writes.
	messageTouchInterval = 10 * time.Second
	// reconnectDelay is when a page may come back whose account has too many websockets, or opens them too often.
	reconnectDelay = 10 * time.Second

	sessionEnded = "session ended"
)

// errEnded is what next returns once the connection is to end.
var errEnded = errors.New("websocket ended")

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

// errorFrame says why a frame was not accepted, or why its message is not known to be stored. With codeTooMany it says how
// many seconds later the page may send the message again or, without a clientId, connect again.
type errorFrame struct {
	Type        string `json:"type"` // error
	ClientID    string `json:"clientId"`
	Codigo      int    `json:"codigo"`
	Descripcion string `json:"descripcion"`
	Espera      int    `json:"espera,omitempty"`
}

// feed is what a page gets besides replies: a chat.Listener, or a panel.
type feed interface {
	// Next returns the next frame, nil while there is none. It fails with chat.ErrBehind when CatchUp is to be called first,
	// and else when the websocket must end.
	Next() ([]byte, error)
	CatchUp(context.Context)
	Close()
}

// client is a page at the other end of a websocket. One goroutine reads; another one writes, which runs only while there is
// something to write; each message that is being stored has one. A websocket allows one reader and one writer at a time;
// control frames are exempt.
type client struct {
	site    *Site
	conn    *websocket.Conn
	session store.Session
	author  store.Author
	texts   texts
	frames  frameCounter
	panel   bool            // the page gets the processes in place of the chat
	via     string          // what its request came through
	after   int64           // number of the last entry that the page has
	feed    feed            // set before the first writer starts
	ctx     context.Context // it ends with the connection or with the site's work
	cancel  context.CancelFunc

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
	panel, err := queryNumber(c, "panel", 1, 1, 0)
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
		frames:  newFrameCounter(s.config.Limits.Frames),
		panel:   panel == 1,
		via:     via(c),
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
	return queryNumber(c, "after", 0, maxNumber, 0)
}

// serve reads the page's frames until the connection ends.
func (c *client) serve() {
	c.ctx, c.cancel = context.WithCancel(c.site.work)
	defer c.fail()
	defer c.recoverPanic()
	c.conn.SetReadLimit(maxFrame)
	if !c.site.clients.add(c) {
		c.reject(chat.ErrClosed)
		return
	}
	defer c.site.clients.remove(c)
	if err := c.admit(); err != nil {
		c.reject(err)
		return
	}
	defer c.site.sockets.release(c.session.Email)
	if err := c.join(); err != nil {
		c.reject(err)
		return
	}
	defer c.waitPending()
	defer c.feed.Close()
	go c.write()
	time.AfterFunc(rand.N(aliveInterval), c.sendAlive) // after a reload thousands of pages come at once

	c.conn.SetPongHandler(func(string) error { c.extendReadDeadline(); return nil })
	c.extendReadDeadline()
	c.readFrames()
}

// readFrames handles frames until the connection ends, or until the page has sent too many of them, of whatever kind.
func (c *client) readFrames() {
	for {
		kind, frame, err := c.conn.ReadMessage()
		if errors.Is(err, errTooManyFrames) {
			c.end(websocket.ClosePolicyViolation, "too many frames")
			c.discard()
			return
		}
		if err != nil {
			return
		}
		if c.waitForRoom() { // else the page's answer to the close frame is awaited
			c.handleFrame(kind, frame)
		}
	}
}

// discard reads what the page still sends, without looking at it, for at most closeTimeout: a connection that is closed with
// bytes unread is reset, and the page may miss the close frame.
func (c *client) discard() {
	_ = c.conn.SetReadDeadline(time.Now().Add(closeTimeout))
	_, _ = io.Copy(io.Discard, c.frames.conn)
}

// reject ends a connection that has not joined the chat. No writer runs yet.
func (c *client) reject(err error) {
	switch {
	case errors.Is(err, errTooManyWebsockets):
		c.writeError("error.websockets", c.site.config.Limits.Websockets)
	case errors.Is(err, errTooManyJoins):
		c.writeError("error.joins")
	}
	c.mu.Lock()
	c.endLocked(closeReason(err))
	c.mu.Unlock()
	c.sendClose()
	c.readFrames()
}

// writeError says why a page must wait before it connects again: browsers tell it nothing of a request that was rejected.
func (c *client) writeError(text string, args ...any) {
	frame, _ := json.Marshal(errorFrame{ // cannot fail
		"error", "", codeTooMany, c.texts.format(text, args...), int(reconnectDelay.Seconds()),
	})
	_ = c.conn.SetWriteDeadline(time.Now().Add(closeTimeout))
	_ = c.conn.WriteMessage(websocket.TextMessage, frame) // when it fails, so does the close frame
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
	c.cancel()
	_ = c.conn.Close() // ends the reader and the writer
}

// wake lets a writer send what the feed has. The chat and the panels call it.
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
		frame, err := c.next()
		switch {
		case errors.Is(err, chat.ErrBehind):
			c.catchUp()
			continue
		case err != nil:
			c.sendClose()
			return
		case frame == nil:
			return
		}
		_ = c.conn.SetWriteDeadline(time.Now().Add(c.site.config.Limits.ClientTimeout))
		if err := c.conn.WriteMessage(websocket.TextMessage, frame); err != nil {
			c.fail()
			return
		}
	}
}

// next returns the frame that the writer is to send. Without one the writer must return, with chat.ErrBehind call catchUp, and
// with any other error end the connection. A reply precedes the frames of the chat: on a slow line these may take minutes, in
// which the page would repeat its message.
func (c *client) next() (frame []byte, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case c.ended: // writing stays set, so that no other writer starts
		return nil, errEnded
	case len(c.replies) > 0:
		frame, c.replies = c.replies[0], c.replies[1:]
		c.changed.Broadcast()
		return frame, nil
	}
	c.replies = nil // frees the array
	frame, err = c.feed.Next()
	switch {
	case errors.Is(err, chat.ErrBehind):
		return nil, err
	case err != nil:
		c.endLocked(closeReason(err))
		return nil, err
	}
	c.writing = frame != nil
	return frame, nil
}

// catchUp reads more of what the page missed. When the store is too slow, the listener ends and the page connects again.
func (c *client) catchUp() {
	ctx, cancel := context.WithTimeout(c.ctx, storeTimeout)
	defer cancel()
	c.feed.CatchUp(ctx)
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
	if err := c.conn.WriteControl(websocket.PingMessage, nil, time.Now().Add(c.site.config.Limits.ClientTimeout)); err != nil {
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
	case errors.Is(err, errTooManyWebsockets), errors.Is(err, errTooManyJoins):
		return websocket.CloseTryAgainLater, err.Error()
	default:
		return websocket.CloseServiceRestart, "service restart"
	}
}

// handleFrame checks a frame and sends its message.
func (c *client) handleFrame(kind int, frame []byte) {
	if kind != websocket.TextMessage {
		c.end(websocket.CloseUnsupportedData, "only text")
		return
	}
	if !utf8.Valid(frame) { // RFC 6455, 8.1
		c.end(websocket.CloseInvalidFramePayloadData, "invalid UTF-8")
		return
	}
	var f inboundFrame
	err := decodeJSON(frame, &f)
	switch {
	case err != nil:
		c.replyError("", codeInvalid, "error.json")
	case !c.panel && (f.Type == "message" || f.Type == "" && f.ClientID != ""):
		c.sendMessage(f)
	default:
		c.replyError(f.ClientID, codeInvalid, "error.frame")
	}
}

// admit takes the join off the account's budget and counts the websocket. When the budget does not allow for what the page
// missed, the page gets the recent messages in place of what it has.
func (c *client) admit() error {
	var behind int64
	if !c.panel {
		ctx, cancel := c.site.storeContext()
		defer cancel()
		var err error
		if behind, err = c.site.hub.Behind(ctx, c.after); err != nil {
			return err
		}
	}
	email := c.session.Email
	if !c.site.sockets.spend(email, behind) {
		if behind <= joinCost || !c.site.sockets.spend(email, joinCost) {
			select { // a client that is told at once comes back at once
			case <-time.After(admitTimeout):
			case <-c.ctx.Done():
			}
			return errTooManyJoins
		}
		c.after = 0
	}
	return c.site.sockets.admit(email)
}

// join subscribes the page to the chat, from the entry after the last one that it has, or to the list of processes. It fails
// with store.ErrUnavailable, and then the page connects again.
func (c *client) join() error {
	if c.panel {
		c.feed = c.site.panels.add(c.via, c.wake)
		return nil
	}
	ctx, cancel := c.site.storeContext()
	defer cancel()
	listener, err := c.site.hub.Join(ctx, c.session.ID, c.after, c.wake)
	c.feed = listener
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
	if e, ok := errors.AsType[*chat.TooManyError](err); ok {
		seconds := int(math.Ceil(e.Wait.Seconds()))
		c.reply(errorFrame{"error", f.ClientID, codeTooMany, c.texts.format("error.rate", seconds), seconds})
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
	c.reply(errorFrame{Type: "error", ClientID: clientID, Codigo: code, Descripcion: c.texts.format(text, args...)})
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
