package edge

import (
	"bufio"
	"context"
	"encoding/binary"
	"io"
	"net"
	"net/http"
	"sync"
	"time"
)

const (
	socketWrite = 30 * time.Second // for a websocket's client to take what it is sent, else it is dropped
	closeGrace  = 2 * time.Second  // for its answer to a close
)

// serviceRestart is the close frame with code 1012: the page comes back, to the balancer's successor.
var serviceRestart = []byte{0x88, 2, 1012 >> 8, 1012 & 0xff}

// socket is a client's end of a websocket that passes through. It follows the frames to the client, so that at the
// drain a close frame can stand between two of them.
type socket struct {
	net.Conn
	b    *Balancer
	open sync.Once
	gone sync.Once

	mu      sync.Mutex
	stop    func() bool // no close frame at the drain any more
	frames  frames
	leaving bool // the drain has begun
	left    bool // the close frame is sent: nothing may follow it
}

// Hijack gives the connection away to a websocket.
func (a *answer) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	conn, rw, err := http.NewResponseController(a.ResponseWriter).Hijack()
	if err != nil {
		return nil, nil, err
	}
	return &socket{Conn: conn, b: a.b}, rw, nil
}

// Read gives what the client sends. Its end is an error: a websocket has no half-open state.
func (s *socket) Read(p []byte) (int, error) {
	s.open.Do(func() { // not before: ReverseProxy reads once it has sent the 101, which must come before any frame
		s.mu.Lock()
		defer s.mu.Unlock()
		s.stop = context.AfterFunc(s.b.draining, s.leave)
	})
	n, err := s.Conn.Read(p)
	if err == io.EOF {
		err = io.ErrUnexpectedEOF
	}
	return n, err
}

// Write passes on what the server sends.
func (s *socket) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.left {
		return len(p), nil
	}
	if !s.leaving {
		_ = s.SetWriteDeadline(time.Now().Add(socketWrite))
	}
	n, err := s.Conn.Write(p)
	s.frames.pass(p[:n])
	s.closeIfDue()
	return n, err
}

// leave closes the websocket with 1012, after the frame that is on its way, and gives the client little time.
func (s *socket) leave() {
	_ = s.SetDeadline(time.Now().Add(closeGrace)) // first: it ends a Write that holds the lock
	s.mu.Lock()
	defer s.mu.Unlock()
	s.leaving = true
	s.closeIfDue()
}

func (s *socket) closeIfDue() {
	if s.leaving && !s.left && s.frames.between() {
		s.left = true
		if _, err := s.Conn.Write(serviceRestart); err == nil {
			s.closeWrite()
		}
	}
}

// CloseWrite is called when the server has closed its end. The client's answer is still read: were the connection
// closed with that in its buffer, the client could lose the close frame that the server has sent.
func (s *socket) CloseWrite() error {
	_ = s.SetReadDeadline(time.Now().Add(closeGrace))
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.left {
		return nil
	}
	s.left = true
	return s.closeWrite()
}

func (s *socket) closeWrite() error {
	if half, ok := s.Conn.(interface{ CloseWrite() error }); ok {
		return half.CloseWrite()
	}
	return nil
}

// Close ends the connection.
func (s *socket) Close() error {
	s.gone.Do(func() { s.b.conns.Add(-1) })
	err := s.Conn.Close() // first: it ends a Write that holds the lock
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.stop != nil {
		s.stop()
	}
	return err
}

// frames follows a stream of websocket frames (RFC 6455, section 5.2). Its zero value stands before the first.
type frames struct {
	head []byte // what has come of a frame's header
	left uint64 // bytes to come of its payload
}

// between says whether the stream stands between two frames.
func (f *frames) between() bool { return len(f.head) == 0 && f.left == 0 }

// pass takes the next piece of the stream.
func (f *frames) pass(p []byte) {
	for len(p) > 0 {
		if f.left > 0 {
			n := min(f.left, uint64(len(p)))
			f.left -= n
			p = p[n:]
			continue
		}
		f.head = append(f.head, p[0])
		p = p[1:]
		if len(f.head) < 2 {
			continue
		}
		switch short := f.head[1]; { // a server's frames have no mask, so this is all length
		case short < 126:
			f.left, f.head = uint64(short), f.head[:0]
		case short == 126 && len(f.head) == 4:
			f.left, f.head = uint64(binary.BigEndian.Uint16(f.head[2:])), f.head[:0]
		case short == 127 && len(f.head) == 10:
			f.left, f.head = binary.BigEndian.Uint64(f.head[2:]), f.head[:0]
		}
	}
}
