package web

import (
	"net"
	"sync/atomic"
	"time"
)

// Limits of a lingering close.
const (
	lingerTime    = 10 * time.Second // in all
	lingerSilence = 2 * time.Second  // without a byte from the client
)

// lingeringListener is a listener whose connections can be closed without losing the answer that was written last.
type lingeringListener struct{ net.Listener }

func (l lingeringListener) Accept() (net.Conn, error) {
	conn, err := l.Listener.Accept()
	if tcp, ok := conn.(*net.TCPConn); ok {
		return &lingeringConn{TCPConn: tcp}, err
	}
	return conn, err
}

// lingeringConn is a connection that may be closed while its client is still sending a request that was rejected before
// it was read. A plain close then resets the connection, and the client (nginx, too) may see a broken write instead of
// the answer. RFC 9112 (9.6) describes the lingering close.
type lingeringConn struct {
	*net.TCPConn
	unread atomic.Bool // a part of the request may not have been read
}

// Close sends what was written and the end of the stream. After a rejected request it then discards what the client
// still sends, until the client closes or the limits are reached. A second call closes at once.
func (c *lingeringConn) Close() error {
	if c.unread.Swap(false) && c.CloseWrite() == nil {
		end := time.Now().Add(lingerTime)
		discarded := make([]byte, 4<<10)
		var err error
		for err == nil {
			// SetReadDeadline fails only when the connection is closed, as Read then does.
			_ = c.SetReadDeadline(time.Now().Add(min(lingerSilence, time.Until(end))))
			_, err = c.Read(discarded)
		}
	}
	return c.TCPConn.Close()
}
