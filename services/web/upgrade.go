package web

import (
	"encoding/base64"
	"fmt"
	"net"
	"runtime"
	"sync"
	"syscall"

	"github.com/fasthttp/websocket"
	"github.com/gofiber/fiber/v2"
	fiberws "github.com/gofiber/websocket/v2"
)

// upgrader makes a websocket of a connection whose request the site has accepted. It is an application of its own with
// small buffers: fasthttp's buffer for reading a request, 8 KiB in the site, stays with a websocket as long as it is open.
type upgrader struct{ app *fiber.App }

// Sizes of the upgrader's buffers, in bytes.
const (
	handshakeBuffer = 1 << 10 // holds the request that handshake makes
	readBuffer      = 256     // larger frames are read piece by piece
)

func newUpgrader(s *Site) upgrader {
	app := fiber.New(fiber.Config{DisableStartupMessage: true, ReadBufferSize: handshakeBuffer})
	app.Use(func(c *fiber.Ctx) error {
		s.setCommonHeaders(c.Context())
		return c.Next()
	}, fiberws.New(func(pooled *fiberws.Conn) {
		conn := pooled.Conn // the outer one goes back to a pool, and serves another client
		client := conn.NetConn().(interface{ UnsafeConn() net.Conn }).UnsafeConn().(*handshakeConn).client
		client.conn = conn
		go client.serve() // the handler returns, and releases what the request needed
	}, fiberws.Config{ReadBufferSize: readBuffer, WriteBufferPool: new(sync.Pool)}))
	server := app.Server()
	server.Handler = app.Handler()
	server.KeepHijackedConns = true // a websocket outlives its request
	return upgrader{app}
}

// upgrade answers a request with the status 101 and then serves the client on its connection. What the browser has sent
// before the answer is lost; RFC 6455 (4.1) forbids it.
func (u upgrader) upgrade(c *fiber.Ctx, client *client) {
	conn := &handshakeConn{Conn: tcpConn(c.Context().Conn()), request: handshake(c), client: client}
	client.frames.conn = conn.Conn
	limitUnsent(conn.Conn)
	c.Status(fiber.StatusSwitchingProtocols) // for the metrics
	c.Context().HijackSetNoResponse(true)
	c.Context().Hijack(func(net.Conn) { _ = u.app.Server().ServeConn(conn) }) // it closes what it can't upgrade
}

// handshakeConn is a connection from which the upgrader reads the handshake, and then what the client sends.
type handshakeConn struct {
	net.Conn
	request string // not read yet
	client  *client
}

func (c *handshakeConn) Read(p []byte) (int, error) {
	if c.request == "" {
		return c.client.frames.Read(p)
	}
	n := copy(p, c.request)
	c.request = c.request[n:]
	return n, nil
}

// handshake is the part of a request that an upgrade needs.
func handshake(c *fiber.Ctx) string {
	return fmt.Sprintf("GET /ws HTTP/1.1\r\nHost: site\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"+
		"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: %s\r\nX-Request-Id: %s\r\n\r\n",
		c.Get("Sec-WebSocket-Key"), requestID(c))
}

// isUpgrade reports whether a request asks for a websocket by the protocol's only version, with a key of 16 bytes in base64.
func isUpgrade(c *fiber.Ctx) bool {
	return websocket.FastHTTPIsWebSocketUpgrade(c.Context()) && c.Method() == fiber.MethodGet &&
		c.Get("Sec-WebSocket-Version") == "13" && validKey(c.Get("Sec-WebSocket-Key"))
}

// validKey reports whether a key is 16 bytes in base64, as RFC 6455 (4.2.1) demands.
func validKey(key string) bool {
	b, err := base64.StdEncoding.DecodeString(key)
	return err == nil && len(b) == 16
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
