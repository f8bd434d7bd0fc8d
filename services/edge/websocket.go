package edge

import (
	"bytes"
	"context"
	"encoding/binary"
	"io"
	"net"
	"net/http"
	"sync"
	"time"
)

const (
	websocketPiece = 4 << 10         // bytes, of which the client must read some within Limits.ClientTimeout
	closeTimeout   = 2 * time.Second // for the client's answer to a close frame
)

// serviceRestart is a close frame with code 1012, at which pages connect again: to the balancer's successor.
var serviceRestart = []byte{0x88, 2, 1012 >> 8, 1012 & 0xff}

// wsConn is the client's end of a proxied websocket. It follows the frames to the client, so that at the drain it can
// send a close frame between two of them.
type wsConn struct {
	net.Conn // the TCP connection, without clientConn's limits of time
	client   *clientConn
	b        *Balancer

	mu             sync.Mutex
	cancel         func() bool // of the close frame at the drain
	frames         frameParser
	written        int64 // bytes to the client
	draining       bool  // the drain has begun
	closeFrameSent bool  // nothing may follow it
}

// serveWebsocket hands the client's connection over to a websocket that the upstream agreed to, and returns at its end.
func (w *responseWriter) serveWebsocket(a *answer) {
	header := http.Header{}
	copyAnswerHeader(header, a.Header)
	header[requestID] = w.r.Header[requestID]
	header["Connection"], header["Upgrade"] = []string{"Upgrade"}, []string{"websocket"}
	head := bytes.NewBufferString("HTTP/1.1 101 Switching Protocols\r\n")
	_ = header.Write(head) // a buffer takes everything
	head.WriteString("\r\n")

	conn, in, err := http.NewResponseController(w.ResponseWriter).Hijack()
	if err != nil {
		w.b.handleProxyError(w, w.r, err)
		return
	}
	client, upstream := conn.(*clientConn), a.conn // Serve's listener accepts no other
	defer client.Close()
	if _, err := client.Write(head.Bytes()); err != nil {
		return
	}
	w.status = http.StatusSwitchingProtocols
	s := &wsConn{Conn: client.tcp, client: client, b: w.b}
	s.closeAtDrain() // the status 101 must precede any frame
	toClient := make(chan struct{})
	go func() {
		defer close(toClient)
		if _, err := io.Copy(s, upstream.in); err != nil || s.CloseWrite() != nil {
			s.Close()
		}
	}()
	first, _ := in.Reader.Peek(in.Reader.Buffered()) // frames that came with the request
	if _, err := upstream.Write(first); err == nil {
		// It ends with an error: Read returns no io.EOF.
		_, _ = io.CopyBuffer(struct{ io.Writer }{upstream}, s, make([]byte, websocketPiece))
	}
	upstream.Close()
	s.Close()
	<-toClient
	w.bytes = s.written
}

// closeAtDrain makes the drain close the websocket.
func (s *wsConn) closeAtDrain() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.cancel = context.AfterFunc(s.b.draining, s.closeForDrain)
}

// Read reads from the client. End of file becomes an error, since a websocket has no half-open state.
func (s *wsConn) Read(p []byte) (int, error) {
	n, err := s.Conn.Read(p)
	if err == io.EOF {
		err = io.ErrUnexpectedEOF
	}
	return n, err
}

// Write sends the client what the upstream sent, in pieces: on a slow line a frame may take longer than the time limit, but
// a piece may not.
func (s *wsConn) Write(p []byte) (n int, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closeFrameSent {
		return len(p), nil
	}
	for n < len(p) && err == nil {
		s.extendWriteDeadline()
		var written int
		written, err = s.Conn.Write(p[n:min(n+websocketPiece, len(p))])
		s.frames.write(p[n : n+written])
		s.written += int64(written)
		n += written
	}
	s.sendCloseFrame()
	return n, err
}

// extendWriteDeadline gives the next piece its time, unless the drain has begun: closeForDrain has set its own limit then.
func (s *wsConn) extendWriteDeadline() {
	if s.b.draining.Err() == nil {
		_ = s.SetWriteDeadline(time.Now().Add(s.b.config.Limits.ClientTimeout))
		if s.b.draining.Err() != nil { // since the check above: closeForDrain may have set its limit before
			_ = s.SetWriteDeadline(time.Now().Add(closeTimeout))
		}
	}
}

// closeForDrain closes the websocket with 1012 after the frame that is being sent, within closeTimeout.
func (s *wsConn) closeForDrain() {
	_ = s.SetDeadline(time.Now().Add(closeTimeout)) // before the lock, since a Write may hold that
	s.mu.Lock()
	defer s.mu.Unlock()
	s.draining = true
	s.sendCloseFrame()
}

// sendCloseFrame sends the close frame of the drain, once, when the client has got a complete frame.
func (s *wsConn) sendCloseFrame() {
	if s.draining && !s.closeFrameSent && s.frames.complete() {
		s.closeFrameSent = true
		if _, err := s.Conn.Write(serviceRestart); err == nil {
			_ = s.client.tcp.CloseWrite()
		}
	}
}

// CloseWrite is called when the upstream has closed its end. The client's answer is still read: closing a connection
// with unread data resets it, and the client could lose the close frame that the upstream has sent.
func (s *wsConn) CloseWrite() error {
	_ = s.SetReadDeadline(time.Now().Add(closeTimeout))
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closeFrameSent {
		return nil
	}
	s.closeFrameSent = true
	return s.client.tcp.CloseWrite()
}

// Close ends the connection.
func (s *wsConn) Close() error {
	err := s.client.Close() // before the lock, since a Write may hold that
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.cancel != nil {
		s.cancel()
	}
	return err
}

// frameParser follows a stream of unmasked websocket frames (RFC 6455, section 5.2). Its zero value is before the first.
type frameParser struct {
	header    []byte // of the current frame, as far as it was written
	remaining uint64 // bytes of its payload
}

// complete tells whether the stream is between two frames.
func (f *frameParser) complete() bool { return len(f.header) == 0 && f.remaining == 0 }

// write advances over the next piece of the stream.
func (f *frameParser) write(p []byte) {
	for len(p) > 0 {
		if f.remaining > 0 {
			n := min(f.remaining, uint64(len(p)))
			f.remaining -= n
			p = p[n:]
			continue
		}
		f.header = append(f.header, p[0])
		p = p[1:]
		if len(f.header) < 2 {
			continue
		}
		switch short := f.header[1]; { // the first bit is the mask's, and frames of a server have none
		case short < 126:
			f.remaining, f.header = uint64(short), f.header[:0]
		case short == 126 && len(f.header) == 4:
			f.remaining, f.header = uint64(binary.BigEndian.Uint16(f.header[2:])), f.header[:0]
		case short == 127 && len(f.header) == 10:
			f.remaining, f.header = binary.BigEndian.Uint64(f.header[2:]), f.header[:0]
		}
	}
}
