package web

import (
	"encoding/binary"
	"errors"
	"net"

	"golang.org/x/time/rate"
)

// errTooManyFrames ends a websocket whose page sends more frames than it may.
var errTooManyFrames = errors.New("too many frames")

// frameCounter reads the bytes that a page sends and counts the frames in them (RFC 6455, 5.2), before anything else looks
// at these: also pings, and the parts of a message, which the websocket's package handles by itself.
type frameCounter struct {
	conn   net.Conn
	limit  *rate.Limiter
	header [10]byte // flags, the payload's length in its three forms, but not the mask
	have   int      // bytes of the header that were read
	skip   uint64   // bytes up to the next header
}

// newFrameCounter allows for so many frames a second, and for twice as many at once.
func newFrameCounter(perSecond int) frameCounter {
	return frameCounter{limit: rate.NewLimiter(rate.Limit(perSecond), 2*perSecond)}
}

// Read fails with errTooManyFrames as soon as there are too many.
func (f *frameCounter) Read(p []byte) (int, error) {
	n, err := f.conn.Read(p)
	if !f.count(p[:n]) {
		return 0, errTooManyFrames
	}
	return n, err
}

// count goes through bytes and returns false when a frame begins in them that is one too many.
func (f *frameCounter) count(p []byte) bool {
	for len(p) > 0 {
		if f.skip > 0 {
			n := min(f.skip, uint64(len(p)))
			p, f.skip = p[n:], f.skip-n
			continue
		}
		if f.have == 0 && !f.limit.Allow() {
			return false
		}
		f.header[f.have] = p[0]
		f.have++
		p = p[1:]
		if payload, ok := f.payload(); ok {
			f.have, f.skip = 0, payload
		}
	}
	return true
}

// payload returns how many bytes follow the header, the mask among them, once the header is complete.
func (f *frameCounter) payload() (n uint64, ok bool) {
	const short, medium, long, maskLength = 2, 4, 10, 4 // bytes
	length, masked := f.header[1]&0x7f, f.header[1]&0x80 != 0
	switch {
	case f.have < short, length == 126 && f.have < medium, length == 127 && f.have < long:
		return 0, false
	case length == 126:
		n = uint64(binary.BigEndian.Uint16(f.header[short:medium]))
	case length == 127:
		n = binary.BigEndian.Uint64(f.header[short:long])
	default:
		n = uint64(length)
	}
	if masked {
		n += maskLength
	}
	return n, true
}
