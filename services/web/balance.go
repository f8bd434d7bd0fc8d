package web

import "github.com/valyala/fasthttp"

// balance counts the answer to a request, and ends its connection when the process is ahead of its siblings: whoever pools
// connections, a balancer or a browser, then sends its next request on another one, which another process accepts.
//
// The first request of a connection was counted when the connection was accepted. Health checks do not count: they come to
// one process more than to another.
func (s *Site) balance(c *fasthttp.RequestCtx) {
	conn, ok := c.Conn().(*clientConn)
	if !ok {
		return
	}
	first, n := c.ConnRequestNum() == 1, 1
	if first {
		n--
	}
	if isHealthCheck(string(c.Path())) {
		n--
	}
	reads := conn.reads.Load()
	conn.pipelined = conn.pipelined || !first && reads == conn.answeredReads
	conn.answeredReads = reads
	if s.config.Answered(n) && !first && !conn.pipelined && !c.Hijacked() {
		closeAfter(c, false)
	}
}

// startDraw counts a draw of n numbers until the returned function is called.
func (s *Site) startDraw(n int64) (ended func()) {
	s.drawing.Add(1)
	uncount := s.config.Drawing(n)
	return func() {
		s.drawing.Add(-1)
		uncount()
	}
}
