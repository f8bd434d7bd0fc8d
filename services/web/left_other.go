//go:build !linux

package web

import (
	"errors"
	"net"

	"golang.org/x/sys/unix"
)

// hasLeft reports whether the other side of a connection has closed it. Where something that it sent before was not read
// yet, it is not seen.
func hasLeft(conn *net.TCPConn) (left bool) {
	raw, err := conn.SyscallConn()
	if err != nil {
		return true
	}
	err = raw.Control(func(fd uintptr) {
		n, _, err := unix.Recvfrom(int(fd), make([]byte, 1), unix.MSG_PEEK|unix.MSG_DONTWAIT)
		left = n == 0 && err == nil || errors.Is(err, unix.ECONNRESET)
	})
	return left || err != nil
}
