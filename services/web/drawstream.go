package web

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"runtime/debug"
	"strconv"
	"strings"
	"time"

	"github.com/gofiber/fiber/v2"

	"balanza/services/draw"
)

const (
	mimeEvents = "text/event-stream"
	// progressInterval is the time between two events that tell how far a draw is.
	progressInterval = 200 * time.Millisecond
)

var errStreamPanic = errors.New("panic in an event stream")

// wantsEvents reports whether a client asks for the progress of its draw: it names text/event-stream, and prefers it to
// JSON. A HEAD has no events, and HTTP/1.0 has no answers of unknown length.
func wantsEvents(c *fiber.Ctx) bool {
	return strings.Contains(c.Get(fiber.HeaderAccept), mimeEvents) &&
		c.Accepts(fiber.MIMEApplicationJSON, mimeEvents) == mimeEvents &&
		c.Method() == fiber.MethodGet && c.Request().Header.IsHTTP11()
}

// drawStream is the body of an answer with a draw's progress, as Server-Sent Events (HTML Standard, 9.2):
//
//	event: progress   {"drawn":12000000,"of":500000000}, at once and every progressInterval
//	event: result     the histogram, as the JSON answer has it; the last event
//	event: error      a JSON error with its status, when the server stops; the last event
//
// fasthttp reads it after the handler has returned, in the goroutine of the connection, and closes it when it has sent all
// or failed to. It must therefore hold nothing of the fiber.Ctx.
type drawStream struct {
	site    *Site
	drawing draw.Drawing
	of      int64
	client  context.Context // ends when the client leaves, or with the site's work
	texts   texts           // in the client's language
	tick    *time.Ticker
	end     []func() // what is called when the stream is closed

	pending []byte // events that are not read yet
	started bool   // the first event was made
	ended   bool   // the last one was

	route  *routeMetrics // nil: not counted
	began  time.Time     // of the request
	status int           // for the metrics; the client got 200
}

// streamDraw answers with the events of a draw. It calls release when the answer has ended.
func (s *Site) streamDraw(c *fiber.Ctx, n int64, release func()) error {
	drawing, err := draw.Start(n)
	if err == nil && s.work.Err() != nil {
		drawing.Stop()
		err = errStopping
	}
	if err != nil {
		release()
		return err
	}
	client, cancel := untilClientLeaves(s.work, c.Context())
	tick := time.NewTicker(progressInterval)
	h := &c.Response().Header
	h.SetContentType(mimeEvents)
	h.Set(fiber.HeaderCacheControl, "no-store")
	h.Set("X-Accel-Buffering", "no") // nginx sends each event on at once, even where it compresses
	h.Set("X-Balanza-Worker", strconv.Itoa(s.config.Process.Worker))
	c.Context().SetBodyStream(&drawStream{
		site: s, drawing: drawing, of: n, client: client, texts: s.texts[lang(c)], tick: tick,
		end:   []func(){drawing.Stop, cancel, tick.Stop, release, s.startDraw(n)},
		began: c.Context().Time(), status: fiber.StatusOK,
	}, -1)
	return nil
}

// Read returns the next events. It waits for one. An error breaks the connection off: nobody waits for the events.
func (d *drawStream) Read(p []byte) (n int, err error) {
	defer func() { // recoverPanics has returned
		if r := recover(); r != nil {
			d.status = fiber.StatusInternalServerError
			d.site.log.Error("panic in an event stream", "panic", r, "stack", string(debug.Stack()))
			n, err = 0, errStreamPanic
		}
	}()
	if len(d.pending) == 0 {
		if d.ended {
			return 0, io.EOF
		}
		if d.pending, err = d.next(); err != nil {
			return 0, err
		}
	}
	n = copy(p, d.pending)
	d.pending = d.pending[n:]
	return n, nil
}

// next waits until there is something to tell, and returns it. The first event does not wait: with it the client gets the
// headers, and a balancer in front has no reason to send the request to another server.
func (d *drawStream) next() ([]byte, error) {
	var done bool
	if d.started {
		select {
		case <-d.drawing.Done():
			done = true
		case <-d.client.Done():
		case <-d.tick.C:
		}
	}
	d.started = true
	switch {
	case done:
		d.ended = true
		return event("result", d.drawing.Counts().AppendJSON(nil)), nil
	case d.site.work.Err() != nil:
		d.ended, d.status = true, errStopping.status
		data, err := json.Marshal(struct {
			errorBody
			Status int `json:"status"`
		}{errorBody{Error: errStopping.code, Descripcion: d.texts.format(errStopping.text)}, errStopping.status})
		return event("error", data), err
	case d.client.Err() != nil:
		d.status = errClientLeft.status
		return nil, errClientLeft
	}
	return event("progress", fmt.Appendf(nil, `{"drawn":%d,"of":%d}`, d.drawing.Drawn(), d.of)), nil
}

// CloseWithError ends the draw and counts the request with its whole time. fasthttp calls it once, with the error of a
// client that does not read.
func (d *drawStream) CloseWithError(err error) error {
	for _, end := range d.end {
		end()
	}
	if err != nil && d.status == fiber.StatusOK {
		d.status = errClientLeft.status
	}
	if d.route != nil {
		d.route.count(d.status, time.Since(d.began))
	}
	return nil
}

// event returns a Server-Sent Event. data has no line feeds.
func event(name string, data []byte) []byte {
	return fmt.Appendf(make([]byte, 0, len(data)+64), "event: %s\ndata: %s\n\n", name, data)
}
