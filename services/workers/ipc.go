package workers

import (
	"encoding/json"
	"net"
	"os"
	"sync"
	"syscall"
	"time"

	"balanza/services/metrics"
)

// message is what a master and its worker send each other, one JSON object a line; one field is set, besides Address and Explained. The field
// names in JSON must stay: after a reload a master of an older build talks to workers of a newer one.
type message struct {
	// from the worker
	Ready     bool       `json:"ready,omitempty"`    // it serves
	Address   string     `json:"address,omitempty"`  // with Ready: where its program listens, host:port
	Heartbeat *Heartbeat `json:"beat,omitempty"`     // it lives
	Draining  bool       `json:"draining,omitempty"` // it got a signal to end, from another process than its master
	Ask       *ask       `json:"ask,omitempty"`      // for the server's metrics; the master answers with Totals
	Report    *report    `json:"report,omitempty"`   // the answer to Sample
	Degraded  *string    `json:"degraded,omitempty"` // what keeps it from a part of its work; empty: nothing does any more
	// from the parent of a program
	Program   int           `json:"program,omitempty"`   // the program's pid
	Failed    string        `json:"failed,omitempty"`    // why it is about to end
	Explained bool          `json:"explained,omitempty"` // with Failed: the program's output tells nothing more
	Warning   string        `json:"warning,omitempty"`   // about the program, for the server's log
	Unhealthy string        `json:"unhealthy,omitempty"` // why there is no heartbeat
	Extend    time.Duration `json:"extend,omitempty"`    // how long the program still takes to become ready, or to end; nanoseconds

	// from the master
	Drain  *drain  `json:"drain,omitempty"`
	Totals *totals `json:"totals,omitempty"`
	Sample *sample `json:"sample,omitempty"` // asks for a Report
}

// drain orders a worker to finish what it has and end.
type drain struct {
	Replaced bool   `json:"replaced"`        // other processes go on accepting on its socket
	Cause    string `json:"cause,omitempty"` // reload, stop …
}

// ask asks the master for the metrics of the server. A worker of an older build sends its counters and wants the sums.
type ask struct {
	ID       int64              `json:"id,omitempty"`
	Text     bool               `json:"text,omitempty"`
	Counters map[string]float64 `json:"counters,omitempty"`
}

// totals answers an ask: with Text, or with the sums of the counters where the worker or the master is of an older build,
// which knows neither ID nor Text.
type totals struct {
	ID       int64              `json:"id,omitempty"`
	Text     string             `json:"text,omitempty"`
	Counters map[string]float64 `json:"counters,omitempty"`
}

// sample asks a worker for its metrics.
type sample struct {
	ID int64 `json:"id"`
}

// report answers the sample of that number.
type report struct {
	ID int64 `json:"id"`
	Report
}

// Report is what a worker has to tell at the moment of a scrape.
type Report struct {
	// Totals are counters, and the counters that a histogram consists of. The master adds them up over all workers that
	// the server ever had, as those of heartbeats.
	Totals metrics.Snapshot `json:"totals"`
	// Own are the worker's alone. They get its number as a label.
	Own metrics.Snapshot `json:"own"`
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
	mu   sync.Mutex // one writer at a time
	rest []byte     // of a message that was sent in part: it goes before the next one, or the stream would be broken
	in   *json.Decoder
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
	if len(c.rest) > 0 {
		if err := c.write(c.rest); err != nil {
			return err
		}
	}
	return c.write(append(line, '\n'))
}

// write sends bytes, and keeps those that the deadline has left of them. Of a message that was not begun none are kept.
func (c *conn) write(line []byte) error {
	resumed := len(c.rest) > 0
	n, err := c.Write(line)
	if c.rest = nil; err != nil && (n > 0 || resumed) {
		c.rest = line[n:]
	}
	return err
}

func (c *conn) receive() (m message, err error) {
	err = c.in.Decode(&m)
	return m, err
}

func (c *conn) close() { c.Close() }
