package web

import (
	"bufio"
	"net"
	"net/http"
	"runtime"
	"strings"
	"sync"
	"syscall"

	"github.com/gofiber/fiber/v2"
	"github.com/gorilla/websocket"
)

var errUpgradeRequired = &httpError{status: fiber.StatusUpgradeRequired, code: codeInvalid, text: "error.upgrade"}

// upgrader makes websockets of which an idle one holds only a small buffer for reading. Its errors are not answered here.
var upgrader = websocket.Upgrader{
	ReadBufferSize:  512,
	WriteBufferPool: new(sync.Pool),
	CheckOrigin:     func(*http.Request) bool { return true }, // checkUpgrade has done it
	Error:           func(http.ResponseWriter, *http.Request, int, error) {},
}

// isUpgrade reports whether a request asks for a websocket.
func isUpgrade(c *fiber.Ctx) bool {
	return strings.Contains(strings.ToLower(c.Get(fiber.HeaderConnection)), "upgrade") &&
		strings.EqualFold(c.Get(fiber.HeaderUpgrade), "websocket")
}

// upgrade answers the status 101 and returns the websocket, on the connection as it was accepted. The one that fasthttp
// gives to a hijacker holds a buffer of 8 KiB as long as it is open. What a client has sent before the answer is lost; RFC
// 6455 (4.1) forbids it.
func (s *Site) upgrade(c *fiber.Ctx) (*websocket.Conn, error) {
	c.Status(fiber.StatusSwitchingProtocols) // for the metrics
	s.setCommonHeaders(c.Context())
	answer := make(http.Header)
	for name, value := range c.Response().Header.All() {
		answer.Add(string(name), string(value))
	}
	answer.Del(fiber.HeaderContentType)
	answer.Del(fiber.HeaderConnection) // the upgrader sets its own
	r := &http.Request{Method: c.Method(), Header: c.GetReqHeaders()}
	conn, err := upgrader.Upgrade(&hijacker{conn: c.Context().Conn()}, r, answer)
	if err != nil {
		return nil, errUpgradeRequired
	}
	limitUnsent(conn.NetConn())
	return conn, nil
}

// hijacker gives the upgrader a connection that net/http has not accepted.
type hijacker struct {
	http.ResponseWriter // not used
	conn                net.Conn
}

func (h *hijacker) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	return h.conn, bufio.NewReadWriter(bufio.NewReaderSize(h.conn, 0), bufio.NewWriterSize(h.conn, 512)), nil
}

// maxUnsent is how many bytes of a websocket may wait in the kernel. Without the limit megabytes do, and an acknowledgement
// reaches a page on a slow line only after them.
const maxUnsent = 16 << 10

// limitUnsent sets maxUnsent, on Linux. A connection without a descriptor, as tests have it, is left alone.
func limitUnsent(conn net.Conn) {
	const notsentLowat = 25 // TCP_NOTSENT_LOWAT: syscall has no name for it
	socket, ok := conn.(syscall.Conn)
	if !ok || runtime.GOOS != "linux" {
		return
	}
	if raw, err := socket.SyscallConn(); err == nil {
		_ = raw.Control(func(fd uintptr) { // fails only for another kind of socket
			_ = syscall.SetsockoptInt(int(fd), syscall.IPPROTO_TCP, notsentLowat, maxUnsent)
		})
	}
}
