// Package share lets several processes accept connections from one listening socket, in equal parts. A Socket is the
// parent's side: it binds the port and hands the socket's descriptor down. A Listener is the side of a process that
// inherited the descriptor, or of the parent where that serves by itself.
package share

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"syscall"

	"golang.org/x/sys/unix"
)

// Socket is a bound TCP socket together with the shared page on which its processes count what they accepted. Its
// methods are for one goroutine.
type Socket struct {
	listener   *net.TCPListener
	descriptor *os.File
	pageFile   *os.File
	page       *page
}

// Listen binds host (empty: every interface) and port (0: a free one). The error says in words for people why the port
// cannot be had. external is for programs that know only systemd's protocol (sd_listen_fds(3)): they get a blocking
// descriptor and no page.
func Listen(host, port string, external bool) (*Socket, error) {
	var config net.ListenConfig
	config.SetMultipathTCP(false) // the kernel accepts no socket filter on MPTCP sockets: see rejectNew
	ln, err := config.Listen(context.Background(), "tcp", net.JoinHostPort(host, port))
	switch {
	case errors.Is(err, syscall.EADDRINUSE):
		return nil, fmt.Errorf("port %s is taken by another process", port)
	case errors.Is(err, syscall.EACCES):
		return nil, fmt.Errorf("port %s: not allowed to listen on it", port)
	case err != nil:
		return nil, err
	}
	s := &Socket{listener: ln.(*net.TCPListener)}
	s.descriptor, err = descriptor(s.listener, external)
	if err == nil && !external {
		s.pageFile, s.page, err = newPage()
	}
	if err != nil {
		s.Close()
		return nil, err
	}
	return s, nil
}

// Port is the bound port, 1 to 65535.
func (s *Socket) Port() int { return s.listener.Addr().(*net.TCPAddr).Port }

// Files are the descriptors that a child process inherits, in the order that Inherit takes them. An external program
// gets the socket alone. They stay the Socket's: the caller must not close them.
func (s *Socket) Files() []*os.File {
	if s.pageFile == nil {
		return []*os.File{s.descriptor}
	}
	return []*os.File{s.descriptor, s.pageFile}
}

// InProcess returns a Listener on the socket for the parent itself. It takes no part in the counting, since a parent
// that serves has no siblings.
func (s *Socket) InProcess() (*Listener, error) {
	ln, err := net.FileListener(s.descriptor)
	if err != nil {
		return nil, err
	}
	return newListener(ln), nil
}

// Leave frees the page's row of a process that has ended.
func (s *Socket) Leave(row int) {
	s.page.leave(row)
	s.page.clear(row)
}

// StopListening closes the parent's descriptors. When the last process that holds the socket has closed its own, new
// connections are refused instead of waiting for nobody.
func (s *Socket) StopListening() {
	s.listener.Close()
	s.descriptor.Close()
}

// Close frees everything that the parent holds. Calling it after StopListening, or twice, is no error.
func (s *Socket) Close() {
	s.listener.Close()
	if s.descriptor != nil {
		s.descriptor.Close()
	}
	if s.pageFile != nil {
		s.page.close()
		s.pageFile.Close()
		s.pageFile = nil
	}
}

// descriptor duplicates a listening socket's descriptor for handing down. TCPListener.File would do the same, but
// starting a process with its file makes the descriptor blocking and with it, since they are one socket, the listeners
// of all workers: a worker that loses the race for a connection would then hang in accept until the next one, even
// while it drains. blocking is how systemd hands its sockets down.
func descriptor(ln *net.TCPListener, blocking bool) (*os.File, error) {
	raw, err := ln.SyscallConn()
	if err != nil {
		return nil, err
	}
	fd := -1
	var failed error
	err = raw.Control(func(s uintptr) {
		if fd, failed = unix.FcntlInt(s, unix.F_DUPFD_CLOEXEC, 0); failed == nil && blocking {
			failed = unix.SetNonblock(fd, false)
		}
	})
	if err = errors.Join(err, failed); err != nil {
		return nil, fmt.Errorf("listener's descriptor: %w", err)
	}
	return os.NewFile(uintptr(fd), "listener"), nil
}
