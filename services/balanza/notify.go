package main

import (
	"fmt"
	"net"
	"os"
	"strings"
	"sync/atomic"
	"time"
)

// notifier tells the service manager that started this process, such as systemd, of its state: see sd_notify(3). Without
// one it does nothing. Its methods may be called by several goroutines.
type notifier struct {
	socket  string       // path of a datagram socket, or @ and a name in Linux's abstract namespace; empty: nobody is told
	reloads atomic.Int32 // under way
	ended   atomic.Bool  // stopping has been called
}

// notifyVariable names the socket of the service manager. LISTEN_FDS and the like are not read.
const notifyVariable = "NOTIFY_SOCKET"

// newNotifier reads the environment and removes the variable from it: the workers, programs and background servers that
// this process starts are not the service, and must not speak for it.
func newNotifier() *notifier {
	n := &notifier{socket: os.Getenv(notifyVariable)}
	_ = os.Unsetenv(notifyVariable)
	if !strings.HasPrefix(n.socket, "/") && !strings.HasPrefix(n.socket, "@") { // such as vsock:, of virtual machines
		n.socket = ""
	}
	return n
}

// ready says that the service answers.
func (n *notifier) ready() { n.send("READY=1\nSTATUS=") }

// degraded says that the service answers in part, and why not in full.
func (n *notifier) degraded(status string) {
	n.send("READY=1\nSTATUS=" + strings.ReplaceAll(status, "\n", "; "))
}

// stopping says that the service is about to end. Nothing is said after that.
func (n *notifier) stopping() {
	if !n.ended.Swap(true) {
		n.write("STOPPING=1")
	}
}

// reload says that a reload begins or has ended. The service is ready again when the last of those under way has ended.
func (n *notifier) reload(begins bool) {
	switch {
	case begins && n.reloads.Add(1) == 1:
		// systemd tells by this time whether the answer to a reload belongs to it.
		n.send(fmt.Sprintf("RELOADING=1\nMONOTONIC_USEC=%d", monotonicTime().Microseconds()))
	case !begins && n.reloads.Add(-1) == 0:
		n.send("READY=1")
	}
}

// notifyTimeout is how long a message may wait for a service manager that does not read.
const notifyTimeout = 100 * time.Millisecond

// send writes a message, unless the service is about to end.
func (n *notifier) send(state string) {
	if !n.ended.Load() {
		n.write(state)
	}
}

// write sends a datagram. A service manager that is gone must not end the service, so errors are ignored.
func (n *notifier) write(state string) {
	if n.socket == "" {
		return
	}
	conn, err := net.DialUnix("unixgram", nil, &net.UnixAddr{Name: n.socket, Net: "unixgram"})
	if err != nil {
		return
	}
	defer conn.Close()
	_ = conn.SetWriteDeadline(time.Now().Add(notifyTimeout))
	_, _ = conn.Write([]byte(state))
}
