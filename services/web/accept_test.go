package web

import (
	"bytes"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"os"
	"strings"
	"syscall"
	"testing"
)

// failingListener fails with each of its errors a few times before it accepts.
type failingListener struct {
	net.Listener
	errors []error
}

func (l *failingListener) Accept() (net.Conn, error) {
	if len(l.errors) > 0 {
		err := l.errors[0]
		l.errors = l.errors[1:]
		return nil, &net.OpError{Op: "accept", Err: os.NewSyscallError("accept4", err)}
	}
	return l.Listener.Accept()
}

// Errors that pass do not end the server, and are one line of the log; others end it.
func TestTemporaryAcceptErrors(t *testing.T) {
	var lines bytes.Buffer
	s := siteWithoutStore(t, Config{})
	s.log = slog.New(slog.NewTextHandler(&lines, nil))
	var temporary []error
	for _, err := range []syscall.Errno{syscall.EMFILE, syscall.ENFILE, syscall.ENOBUFS, syscall.ENOMEM, syscall.ECONNABORTED, syscall.EMFILE} {
		temporary = append(temporary, err, err)
	}
	v := serve(t, s, &failingListener{listen(t), temporary})
	v.send(t, call{path: "/info"}).want(t, http.StatusOK)
	v.drain()
	v.end(t)
	if n := strings.Count(lines.String(), "out of file descriptors"); n != 1 || strings.Count(lines.String(), "level=WARN") != 1 {
		t.Errorf("the log: %s", &lines)
	}
	err := siteWithoutStore(t, Config{}).Serve(t.Context(), &failingListener{listen(t), []error{syscall.EMFILE, syscall.EINVAL}})
	if !errors.Is(err, syscall.EINVAL) {
		t.Errorf("a permanent error: %v", err)
	}
}
