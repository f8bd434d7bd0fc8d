package instance

import (
	"errors"
	"net"
	"strconv"
	"strings"
	"time"
)

// notification is what a program says of itself by sd_notify(3).
type notification struct {
	ready, reloading, stopping bool
	extend                     time.Duration // 0: not named
}

// maxNotification is the size in bytes of the longest datagram that is read.
const maxNotification = 4 << 10

// parseNotification reads the assignments of a datagram, of which there is one a line. Unknown ones are ignored, as systemd does.
func parseNotification(text string) (n notification) {
	for line := range strings.Lines(text) {
		name, value, _ := strings.Cut(strings.TrimRight(line, "\n"), "=")
		switch {
		case name == "READY" && value == "1":
			n.ready = true
		case name == "RELOADING" && value == "1":
			n.reloading = true
		case name == "STOPPING" && value == "1":
			n.stopping = true
		case name == "EXTEND_TIMEOUT_USEC":
			const most = uint64(24 * time.Hour / time.Microsecond)
			if micros, err := strconv.ParseUint(value, 10, 64); err == nil {
				n.extend = time.Duration(min(micros, most)) * time.Microsecond
			}
		}
	}
	return n
}

// notifySocket is where the program sends its notifications.
type notifySocket struct {
	*net.UnixConn
	name    string // for NOTIFY_SOCKET
	cleanUp func()
}

// Close ends the reading.
func (s *notifySocket) Close() {
	s.UnixConn.Close()
	s.cleanUp()
}

// listenNotify makes the socket, and reads from it until it is closed. warn is told when that is not possible any more.
func listenNotify(warn func(text string)) (*notifySocket, chan notification, error) {
	address, cleanUp, err := notifyAddress()
	if err != nil {
		return nil, nil, err
	}
	conn, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: address, Net: "unixgram"})
	if err != nil {
		cleanUp()
		return nil, nil, err
	}
	notes := make(chan notification, 16)
	go func() {
		buffer := make([]byte, maxNotification)
		for {
			n, err := conn.Read(buffer)
			if errors.Is(err, net.ErrClosed) {
				return
			} else if err != nil {
				warn("its notifications are not read any more: " + err.Error())
				return
			}
			note := parseNotification(string(buffer[:n]))
			if note == (notification{}) { // a flood of STATUS= must not fill the queue before READY=1
				continue
			}
			select {
			case notes <- note:
			default: // a flood of them says nothing new
			}
		}
	}()
	return &notifySocket{conn, conn.LocalAddr().String(), cleanUp}, notes, nil
}
