package workers

import (
	"encoding/json"
	"net"
	"os"
	"sync"
	"syscall"
	"time"
)

// message is what a master and its worker send each other, one JSON object a line; exactly one field is set. The field
// names in JSON must stay: after a reload a master of an older build talks to workers of a newer one.
type message struct {
	// from the worker
	Ready     bool       `json:"ready,omitempty"`    // it serves
	Heartbeat *Heartbeat `json:"beat,omitempty"`     // it lives
	Draining  bool       `json:"draining,omitempty"` // it got a signal to end, from another process than its master
	Ask       *counters  `json:"ask,omitempty"`      // its counters; the master answers with Totals

	// from the master
	Drain  *drain    `json:"drain,omitempty"`
	Totals *counters `json:"totals,omitempty"`
}

// drain orders a worker to finish what it has and end.
type drain struct {
	Replaced bool   `json:"replaced"`        // other processes go on accepting on its socket
	Cause    string `json:"cause,omitempty"` // reload, stop …
}

// counters maps Prometheus series to their values, which only grow.
type counters struct {
	Counters map[string]float64 `json:"counters"`
}

// Heartbeat tells the master that a worker lives, and what it has done. It is empty when there is nothing new.
type Heartbeat struct {
	Requests int64              `json:"requests"`          // answered so far
	Counters map[string]float64 `json:"counters"`          // Prometheus series → value; they only grow
	Details  json.RawMessage    `json:"details,omitempty"` // shown as WorkerStatus.Details until the next ones
}

// conn carries messages over one end of a socket pair. End of file means that the other process has ended, since only
// that process holds the other end.
type conn struct {
	net.Conn
	mu sync.Mutex // one writer at a time
	in *json.Decoder
}

// sendTimeout is how long a message may wait for a process that does not read; the heartbeat finds such a process.
const sendTimeout = 200 * time.Millisecond

// newConnPair returns the master's end and the file that the worker inherits.
func newConnPair() (*conn, *os.File, error) {
	syscall.ForkLock.RLock()
	fds, err := syscall.Socketpair(syscall.AF_UNIX, syscall.SOCK_STREAM, 0)
	if err == nil {
		syscall.CloseOnExec(fds[0])
		syscall.CloseOnExec(fds[1])
	}
	syscall.ForkLock.RUnlock()
	if err != nil {
		return nil, nil, os.NewSyscallError("socketpair", err)
	}
	workersEnd := os.NewFile(uintptr(fds[1]), "ipc")
	c, err := openConn(os.NewFile(uintptr(fds[0]), "ipc"))
	if err != nil {
		workersEnd.Close()
		return nil, nil, err
	}
	return c, workersEnd, nil
}

// openConn takes over f.
func openConn(f *os.File) (*conn, error) {
	defer f.Close()
	c, err := net.FileConn(f)
	if err != nil {
		return nil, err
	}
	return &conn{Conn: c, in: json.NewDecoder(c)}, nil
}

func (c *conn) send(m message) error {
	line, err := json.Marshal(m)
	if err != nil {
		return err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if err := c.SetWriteDeadline(time.Now().Add(sendTimeout)); err != nil {
		return err
	}
	_, err = c.Write(append(line, '\n'))
	return err
}

func (c *conn) receive() (m message, err error) {
	err = c.in.Decode(&m)
	return m, err
}

func (c *conn) close() { c.Close() }
