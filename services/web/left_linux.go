package web

import (
	"net"

	"golang.org/x/sys/unix"
)

// hasLeft reports whether the other side of a connection has closed it, also where something that it sent before was not
// read yet.
func hasLeft(conn *net.TCPConn) (left bool) {
	raw, err := conn.SyscallConn()
	if err != nil {
		return true
	}
	err = raw.Control(func(fd uintptr) {
		poll := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLRDHUP}} // POLLHUP and POLLERR are always reported
		n, err := unix.Poll(poll, 0)
		left = err == nil && n > 0
	})
	return left || err != nil
}
