package share

import (
	"crypto/rand"
	"errors"
	"iter"
	"net"
	"os"
	"sync/atomic"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// page is memory that all processes of a Socket share, one row each, in which they count what they answered. The kernel
// alone shares connections unevenly: it wakes all waiting processes, and the same ones win. A process that is ahead of
// the others therefore leaves the next connection to them for a moment. The connections stay in the kernel's queue until
// a process accepts them, so a process that dies loses none but its own.
type page struct {
	used    atomic.Int64 // rows below this number were live at some time
	leveled atomic.Int64 // when level was called last, as Unix time in nanoseconds
	_       [48]byte     // every row has a cache line of its own
	rows    [MaxProcesses]row

	// What follows came later: a master of an older build makes a page without it, see openPage.
	counted counters               // of all processes; see Listener.Acquire
	by      [MaxProcesses]counters // of each process, so that those of a dead one can be taken off again
	seed    [32]byte               // of the counters' hash
}

// row is what the others know of a process. Builds that count accepted connections alone share the page with this one
// during a reload: the first two fields stay where they are.
type row struct {
	// answers is how many requests the process has answered. A connection counts as its first request as soon as it is
	// accepted, so that connections that arrive together are spread.
	answers atomic.Int64
	live    atomic.Bool
	// active is what the draws in progress cost, in answers. At its end a draw moves from here to answers.
	active atomic.Int64
	// skippedUntil ends the time in which nothing is left to the process, as Unix time in nanoseconds, and skips is how often
	// in a row it left a connection for longer than maxDelay. Both are 0 when it has accepted or answered since.
	skippedUntil atomic.Int64
	skips        atomic.Int64
	_            [24]byte
}

// sum is what the process has answered and what its draws cost.
func (r *row) sum() int64 { return r.answers.Load() + r.active.Load() }

// skip leaves nothing to the process for a time.
func (r *row) skip() {
	pause := min(skipTime<<min(r.skips.Add(1)-1, 10), maxSkipTime)
	r.skippedUntil.Store(time.Now().Add(pause).UnixNano())
}

func (r *row) skipped() bool {
	until := r.skippedUntil.Load()
	return until != 0 && time.Now().UnixNano() < until
}

// resume ends a skip: the process has accepted or answered something.
func (r *row) resume() {
	if r.skips.Load() != 0 {
		r.skips.Store(0)
		r.skippedUntil.Store(0)
	}
}

const pageSize = int(unsafe.Sizeof(page{}))

const (
	// burst is how many answers a process may be ahead of the last one: bursts of connections are accepted without a wait.
	burst = 4
	// maxDelay is how long a process that is ahead leaves a connection to the others. Then it accepts it, and processes
	// that did not (they are busy, or stopped) count as level with it.
	maxDelay = 20 * time.Millisecond
	// Nothing is left for skipTime to a process that did not accept in that time, and for twice as long each time until it
	// accepts or answers something: a process that waited for a processor soon gets its share, and one that hangs delays
	// few connections.
	skipTime    = 4 * time.Millisecond
	maxSkipTime = 512 * time.Millisecond
	// pollInterval is the time between two looks at the page meanwhile; it doubles up to maxPollInterval.
	pollInterval    = 100 * time.Microsecond
	maxPollInterval = time.Millisecond
)

// newPage returns the page's file, for child processes, and the parent's mapping of it.
func newPage() (*os.File, *page, error) {
	fd, err := unix.MemfdCreate("balanza-share", unix.MFD_CLOEXEC)
	if err != nil {
		return nil, nil, os.NewSyscallError("memfd_create", err)
	}
	f := os.NewFile(uintptr(fd), "share page")
	p, err := openPage(f)
	if err != nil {
		f.Close()
		return nil, nil, err
	}
	_, _ = rand.Read(p.seed[:]) // never fails
	return f, p, nil
}

// openPage maps the page of a file. One that is smaller is made larger: accesses beyond the end of the file would end the
// process, and other processes do not notice.
func openPage(f *os.File) (*page, error) {
	info, err := f.Stat()
	if err == nil && info.Size() < int64(pageSize) {
		err = f.Truncate(int64(pageSize))
	}
	if err != nil {
		return nil, err
	}
	mem, err := unix.Mmap(int(f.Fd()), 0, pageSize, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		return nil, os.NewSyscallError("mmap", err)
	}
	return (*page)(unsafe.Pointer(&mem[0])), nil
}

func (p *page) close() {
	_ = unix.Munmap(unsafe.Slice((*byte)(unsafe.Pointer(p)), pageSize))
}

// join makes row i live, level with the row that has the fewest answers.
func (p *page) join(i int) {
	p.clear(i)
	r := &p.rows[i]
	r.active.Store(0) // of a process that was killed
	r.resume()
	if least, others := p.least(r); others > 0 {
		r.answers.Store(least)
	}
	for used := p.used.Load(); used <= int64(i) && !p.used.CompareAndSwap(used, int64(i)+1); used = p.used.Load() {
	}
	r.live.Store(true)
}

// leave takes row i out of the comparison. A nil page has no rows.
func (p *page) leave(i int) {
	if p != nil {
		p.rows[i].live.Store(false)
	}
}

// clear takes what row i's process has counted and not released off the counters: it has ended. A nil page has no rows.
func (p *page) clear(i int) {
	if p != nil {
		p.counted.subtract(&p.by[i])
	}
}

// countersOf returns the counters that row i's process uses.
func (p *page) countersOf(i int) (all, own *counters, seed []byte) {
	return &p.counted, &p.by[i], p.seed[:]
}

// live are the rows of processes that accept.
func (p *page) live() iter.Seq[*row] {
	return func(yield func(*row) bool) {
		for i := range p.used.Load() {
			if r := &p.rows[i]; r.live.Load() && !yield(r) {
				return
			}
		}
	}
}

// least is the smallest sum of the live rows other than own, and how many these are. Rows that were skipped a moment ago do
// not count.
func (p *page) least(own *row) (sum, others int64) {
	for r := range p.live() {
		if r == own || r.skipped() {
			continue
		}
		if v := r.sum(); others == 0 || v < sum {
			sum = v
		}
		others++
	}
	return sum, others
}

// ahead tells whether row i is more than burst answers ahead of another live row.
func (p *page) ahead(i int) bool {
	own := &p.rows[i]
	least, others := p.least(own)
	return others > 0 && own.sum() > least+burst
}

// catchUp raises the live rows that are behind row i to its sum, and skips them from now on.
func (p *page) catchUp(i int) {
	sum := p.rows[i].sum()
	for r := range p.live() {
		if behind := sum - r.sum(); behind > 0 {
			r.answers.Add(behind)
			r.skip()
		}
	}
}

// fairListener accepts from the shared socket when it is not ahead of the other processes.
type fairListener struct {
	file   *os.File
	raw    syscall.RawConn
	addr   net.Addr
	page   *page
	row    int
	joined atomic.Bool
	closed atomic.Bool
	// accepted is a connection for which there was no second descriptor yet; only Accept uses it.
	accepted *os.File
}

// listener returns the fairListener of row i on a listener's socket, and takes the listener over.
func (p *page) listener(tcp *net.TCPListener, i int) (net.Listener, error) {
	defer tcp.Close()
	file, err := descriptor(tcp, false)
	if err != nil {
		return nil, err
	}
	raw, err := file.SyscallConn()
	if err != nil {
		file.Close()
		return nil, err
	}
	return &fairListener{file: file, raw: raw, addr: tcp.Addr(), page: p, row: i}, nil
}

func (l *fairListener) Addr() net.Addr { return l.addr }

func (l *fairListener) SyscallConn() (syscall.RawConn, error) { return l.raw, nil }

func (l *fairListener) Close() error {
	l.page.leave(l.row)
	l.closed.Store(true)
	return l.file.Close()
}

func (l *fairListener) Accept() (net.Conn, error) {
	if l.joined.CompareAndSwap(false, true) {
		l.page.join(l.row)
	}
	var failed error
	err := l.raw.Read(func(fd uintptr) bool {
		if l.accepted != nil { // the last call failed, and this is its connection
			return true
		}
		for l.awaitTurn(int(fd)) {
			accepted, _, err := unix.Accept4(int(fd), unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC)
			switch {
			case err == nil:
				l.page.rows[l.row].answers.Add(1)
				l.page.rows[l.row].resume()
				l.accepted = os.NewFile(uintptr(accepted), "conn")
				return true
			case errors.Is(err, unix.EAGAIN), errors.Is(err, unix.ECONNABORTED), errors.Is(err, unix.EINTR):
			default:
				failed = os.NewSyscallError("accept", err)
				return true
			}
		}
		return false
	})
	if err != nil && l.closed.Load() { // the standard library's own error for an interrupted wait is not exported
		err = net.ErrClosed
	}
	if err == nil {
		err = failed
	}
	var conn net.Conn
	if err == nil {
		conn, err = newConn(l.accepted)
	}
	// The package net takes a second descriptor, and cannot take this one over. Without one the connection waits.
	if l.accepted != nil && !errors.Is(err, unix.EMFILE) && !errors.Is(err, unix.ENFILE) {
		l.accepted.Close()
		l.accepted = nil
	}
	if err != nil {
		return nil, &net.OpError{Op: "accept", Net: "tcp", Addr: l.addr, Err: err}
	}
	return conn, nil
}

// awaitTurn waits until this process may accept the connection at the head of the queue; false when the queue is empty.
func (l *fairListener) awaitTurn(fd int) bool {
	var began time.Time
	for pause := pollInterval; ; pause = min(2*pause, maxPollInterval) {
		fds := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
		if n, _ := unix.Poll(fds, 0); n == 0 {
			return false
		}
		l.page.level(time.Now())
		if !l.page.ahead(l.row) {
			return true
		}
		if began.IsZero() {
			began = time.Now()
		} else if time.Since(began) > maxDelay {
			l.page.catchUp(l.row)
			return true
		}
		time.Sleep(pause)
	}
}

// newConn returns the connection of an accepted descriptor, with the keep-alive settings of net.TCPListener.
func newConn(accepted *os.File) (net.Conn, error) {
	conn, err := net.FileConn(accepted)
	if tcp, ok := conn.(*net.TCPConn); ok {
		_ = tcp.SetKeepAlivePeriod(15 * time.Second)
		_ = tcp.SetKeepAlive(true)
	}
	return conn, err
}
