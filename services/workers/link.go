package workers

import (
	"encoding/json"
	"net"
	"os"
	"sync"
	"syscall"
	"time"
)

// message is what a master and its worker tell each other, one JSON object a line; exactly one field is set.
type message struct {
	// from the worker
	Ready    bool  `json:"ready,omitempty"`    // it serves
	Beat     *Beat `json:"beat,omitempty"`     // it lives
	Draining bool  `json:"draining,omitempty"` // it was told to end by somebody else than its master
	Ask      *sums `json:"ask,omitempty"`      // its counters; the master answers with Totals

	// from the master
	Drain  *drain `json:"drain,omitempty"`
	Totals *sums  `json:"totals,omitempty"`
}

// drain orders a worker to finish what it has and end.
type drain struct {
	Replaced bool `json:"replaced"` // others go on accepting on its socket
}

// sums are counters: Prometheus series → value.
type sums struct {
	Counters map[string]float64 `json:"counters"`
}

// Beat is a worker's sign of life; empty when there is nothing new.
type Beat struct {
	Requests int64              `json:"requests"` // answered so far
	Counters map[string]float64 `json:"counters"` // Prometheus series → value; they only grow
}

// alive is an empty beat, which is nearly all that an idle worker says.
var alive = []byte(`{"beat":{}}` + "\n")

// link carries messages over one end of a socket pair. Its end of file means that the other process is dead, since
// only that process holds the other end.
type link struct {
	conn net.Conn
	mu   sync.Mutex // one writer at a time
	in   *json.Decoder
}

// writeLimit is how long a message may wait for a peer that does not read; the heartbeat deals with such a peer.
const writeLimit = 200 * time.Millisecond

// newLinks returns the master's end and the file that the worker inherits.
func newLinks() (*link, *os.File, error) {
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
	theirs := os.NewFile(uintptr(fds[1]), "link")
	l, err := openLink(os.NewFile(uintptr(fds[0]), "link"))
	if err != nil {
		theirs.Close()
		return nil, nil, err
	}
	return l, theirs, nil
}

// openLink takes over f.
func openLink(f *os.File) (*link, error) {
	defer f.Close()
	conn, err := net.FileConn(f)
	if err != nil {
		return nil, err
	}
	return &link{conn: conn, in: json.NewDecoder(conn)}, nil
}

func (l *link) send(m message) error {
	line, err := json.Marshal(m)
	if err != nil {
		return err
	}
	return l.write(append(line, '\n'))
}

func (l *link) write(line []byte) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if err := l.conn.SetWriteDeadline(time.Now().Add(writeLimit)); err != nil {
		return err
	}
	_, err := l.conn.Write(line)
	return err
}

func (l *link) receive() (m message, err error) {
	err = l.in.Decode(&m)
	return m, err
}

func (l *link) close() { l.conn.Close() }
