package web

import (
	"encoding/binary"
	"encoding/hex"
	"math/rand/v2"

	"github.com/gofiber/fiber/v2"
	"github.com/valyala/fasthttp"
)

// maxRequestID is the longest id, in bytes, that is taken from a proxy.
const maxRequestID = 64

// headerRequestID is in canonical form, which fiber.HeaderXRequestID is not.
var headerRequestID = []byte("X-Request-Id")

// setRequestID gives a request an id unless a trusted proxy did. It is kept in the request's own header.
func setRequestID(c *fasthttp.RequestCtx) {
	if h := &c.Request.Header; !validRequestID(h.PeekBytes(headerRequestID)) {
		h.SetCanonical(headerRequestID, newRequestID())
	}
}

// requestID is the id of a request, which its answer and its lines of the log have.
func requestID(c *fiber.Ctx) string { return string(c.Request().Header.PeekBytes(headerRequestID)) }

// newRequestID returns 32 hexadecimal digits, as nginx's $request_id has.
func newRequestID() []byte {
	var id [16]byte
	binary.NativeEndian.PutUint64(id[:8], rand.Uint64())
	binary.NativeEndian.PutUint64(id[8:], rand.Uint64())
	return hex.AppendEncode(nil, id[:])
}

// validRequestID reports whether an id can stand in a line of the log as it is: 1 to maxRequestID letters, digits and
// hyphens.
func validRequestID(id []byte) bool {
	for _, b := range id {
		if (b < '0' || b > '9') && (b|0x20 < 'a' || b|0x20 > 'z') && b != '-' {
			return false
		}
	}
	return len(id) > 0 && len(id) <= maxRequestID
}
