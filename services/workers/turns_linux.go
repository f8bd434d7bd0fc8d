package workers

import (
	"errors"
	"net"
	"os"
	"sync/atomic"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Workers that accept from one socket share its connections unevenly: the kernel wakes all, the same ones win. turns is
// a page of memory that all workers of a master share, one row each, in which they count what they accepted; one that is
// ahead leaves the next connection to the others, for a moment. The connections themselves stay in the kernel's queue
// until a worker takes them, so a worker that dies loses none but its own.
type turns struct{ *page }

type page struct {
	used atomic.Int64 // the first so many rows were ever live
	_    [56]byte     // a cache line each
	rows [maxRows]row
}

type row struct {
	accepted atomic.Int64
	live     atomic.Bool
	_        [48]byte
}

const pageSize = int(unsafe.Sizeof(page{}))

const (
	// slack is how many connections a worker may be ahead of the last one: bursts are taken without a wait.
	slack = 4
	// patience is how long a worker that is ahead leaves a connection to the others. Then it takes it, and who was asked
	// in vain (busy, or stopped) counts as having had its turn.
	patience = 4 * time.Millisecond
	// glance is how often it looks meanwhile.
	glance = 100 * time.Microsecond
)

// newTurns returns the page's file, for the workers, and the master's view of it.
func newTurns() (*os.File, *turns, error) {
	fd, err := unix.MemfdCreate("balanza-turns", unix.MFD_CLOEXEC)
	if err != nil {
		return nil, nil, os.NewSyscallError("memfd_create", err)
	}
	f := os.NewFile(uintptr(fd), "turns")
	if err := f.Truncate(int64(pageSize)); err != nil {
		f.Close()
		return nil, nil, err
	}
	t, err := openTurns(f)
	if err != nil {
		f.Close()
		return nil, nil, err
	}
	return f, t, nil
}

func openTurns(f *os.File) (*turns, error) {
	mem, err := unix.Mmap(int(f.Fd()), 0, pageSize, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		return nil, os.NewSyscallError("mmap", err)
	}
	return &turns{(*page)(unsafe.Pointer(&mem[0]))}, nil
}

func (t *turns) close() {
	if t != nil {
		_ = unix.Munmap(unsafe.Slice((*byte)(unsafe.Pointer(t.page)), pageSize))
	}
}

// leave takes a worker out of the round; the master calls it when the worker is gone.
func (t *turns) leave(i int) {
	if t != nil {
		t.rows[i].live.Store(false)
	}
}

// join puts worker i in, level with the one that has accepted least.
func (t *turns) join(i int) {
	least, ok := t.least(i)
	if ok {
		t.rows[i].accepted.Store(least)
	}
	for used := t.used.Load(); used <= int64(i) && !t.used.CompareAndSwap(used, int64(i)+1); used = t.used.Load() {
	}
	t.rows[i].live.Store(true)
}

// least is the smallest count of the workers other than i, false when there is no other.
func (t *turns) least(i int) (n int64, ok bool) {
	for j := range t.used.Load() {
		if r := &t.rows[j]; j != int64(i) && r.live.Load() {
			if v := r.accepted.Load(); !ok || v < n {
				n, ok = v, true
			}
		}
	}
	return n, ok
}

func (t *turns) ahead(i int) bool {
	least, ok := t.least(i)
	return ok && t.rows[i].accepted.Load() > least+slack
}

// forfeit counts a turn for everybody who is behind worker i.
func (t *turns) forfeit(i int) {
	mine := t.rows[i].accepted.Load()
	for j := range t.used.Load() {
		r := &t.rows[j]
		if v := r.accepted.Load(); r.live.Load() && v < mine {
			r.accepted.CompareAndSwap(v, mine)
		}
	}
}

// evenListener is a worker's share of the master's socket.
type evenListener struct {
	file  *os.File
	raw   syscall.RawConn
	addr  net.Addr
	turns *turns
	row   int
	once  atomic.Bool

	closed atomic.Bool
}

// shareOf returns worker i's share of a listener, which it takes over.
func (t *turns) shareOf(plain *net.TCPListener, i int) (net.Listener, error) {
	defer plain.Close()
	file, err := descriptor(plain, false)
	if err != nil {
		return nil, err
	}
	raw, err := file.SyscallConn()
	if err != nil {
		file.Close()
		return nil, err
	}
	return &evenListener{file: file, raw: raw, addr: plain.Addr(), turns: t, row: i}, nil
}

func (l *evenListener) Addr() net.Addr { return l.addr }

func (l *evenListener) SyscallConn() (syscall.RawConn, error) { return l.raw, nil }

// Close leaves the round and closes this process's descriptor; the socket stays open in the others.
func (l *evenListener) Close() error {
	l.turns.leave(l.row)
	l.closed.Store(true)
	return l.file.Close()
}

func (l *evenListener) Accept() (net.Conn, error) {
	if l.once.CompareAndSwap(false, true) {
		l.turns.join(l.row)
	}
	var conn net.Conn
	var failed error
	err := l.raw.Read(func(fd uintptr) bool {
		for l.myTurn(int(fd)) {
			nfd, _, err := unix.Accept4(int(fd), unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC)
			switch {
			case err == nil:
				l.turns.rows[l.row].accepted.Add(1)
				conn, failed = connOf(nfd)
				return true
			case errors.Is(err, unix.EAGAIN), errors.Is(err, unix.ECONNABORTED), errors.Is(err, unix.EINTR):
			default:
				failed = os.NewSyscallError("accept", err)
				return true
			}
		}
		return false
	})
	if err != nil && l.closed.Load() { // the error of a wait that a Close ends is internal to the standard library
		err = net.ErrClosed
	}
	if err == nil {
		err = failed
	}
	if err != nil {
		return nil, &net.OpError{Op: "accept", Net: "tcp", Addr: l.addr, Err: err}
	}
	return conn, nil
}

// myTurn waits until a connection that waits is this worker's to take; false when none waits.
func (l *evenListener) myTurn(fd int) bool {
	var waited time.Time
	for {
		fds := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
		if n, _ := unix.Poll(fds, 0); n == 0 {
			return false
		}
		if !l.turns.ahead(l.row) {
			return true
		}
		if waited.IsZero() {
			waited = time.Now()
		} else if time.Since(waited) > patience {
			l.turns.forfeit(l.row)
			return true
		}
		time.Sleep(glance)
	}
}

func connOf(fd int) (net.Conn, error) {
	f := os.NewFile(uintptr(fd), "conn")
	defer f.Close()
	conn, err := net.FileConn(f)
	if tcp, ok := conn.(*net.TCPConn); ok {
		_ = tcp.SetKeepAlivePeriod(15 * time.Second)
		_ = tcp.SetKeepAlive(true)
	}
	return conn, err
}
