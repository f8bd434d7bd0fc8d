package workers

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

// proc is a worker as its master sees it: a child process, or the program run in the master itself (FORK).
type proc struct {
	slot, generation, row int
	started               time.Time

	cmd    *exec.Cmd          // nil for the master's own
	link   *link              // nil for the master's own and for programs that are not ours
	cancel context.CancelFunc // the master's own
	worker *Worker            // the master's own

	readied chan *proc             // brings its predecessor, or nil, when it is ready; holds one
	done    chan struct{}          // closed when it is gone and buried
	words   atomic.Pointer[string] // the line that tells best why it ended

	// The rest belongs to the master's goroutine, until done is closed.
	ready, draining, renewing bool
	deadline                  time.Time // when it is killed, unless it is zero
	late                      string    // why, then
	killed                    string    // why the master killed it
	image                     *os.File  // the binary that was started, until a slot keeps it; nil if it came from there
	beaten                    time.Time
	requests                  int64
	counters                  map[string]float64
	exit                      error
}

func (p *proc) pid() int {
	if p.cmd == nil {
		return os.Getpid()
	}
	return p.cmd.Process.Pid
}

// cause says in one line why a proc that is done ended.
func (p *proc) cause() string {
	why := "exited with status 0"
	if p.exit != nil {
		why = p.exit.Error()
	}
	if p.killed != "" {
		why = p.killed
	}
	if words := p.words.Load(); words != nil {
		why += ": " + *words
	}
	return why
}

// event is news of a proc for the master's goroutine.
type event struct {
	proc *proc
	message
	gone bool
	exit error // why, when gone
}

// maxRows is how many processes can have a row of the shared page: for each slot one that serves, two that drain (see
// change), and a successor.
const maxRows = 4 * MaxWorkers

// freeRow finds a row of the shared page that no process has.
func (m *Master) freeRow() int {
	taken := map[int]bool{}
	for p := range m.procs {
		taken[p.row] = true
	}
	row := 0
	for taken[row] && row < maxRows-1 {
		row++
	}
	return row
}

// spawn starts a process for a slot. image, unless nil, is the binary to run in place of what the path names now.
func (m *Master) spawn(s *slot, generation int, image *os.File) (*proc, error) {
	now := time.Now()
	p := &proc{
		slot: s.number, generation: generation, row: m.freeRow(), started: now, beaten: now,
		readied: make(chan *proc, 1), done: make(chan struct{}),
		deadline: now.Add(m.ReadyTimeout), late: fmt.Sprintf("not ready after %v", m.ReadyTimeout),
	}
	start := func() error { return m.start(p, image) }
	if m.Here != nil && generation == 1 {
		start = func() error { return m.startHere(p) }
	}
	if err := start(); err != nil {
		return nil, err
	}
	m.procs[p] = true
	return p, nil
}

// startHere runs the program in this process.
func (m *Master) startHere(p *proc) error {
	ln, err := net.FileListener(m.socket)
	if err != nil {
		return err
	}
	var ctx context.Context
	ctx, p.cancel = context.WithCancel(context.Background())
	p.row = -1
	p.worker = &Worker{Slot: p.slot, Generation: p.generation, Started: p.started, Listener: newListener(ln)}
	p.worker.ready = func() { m.tell(event{proc: p, message: message{Ready: true}}) }
	p.worker.sum = func() (all map[string]float64) {
		_ = m.do(func() { all = m.totals() })
		return all
	}
	go func() {
		defer ln.Close()
		err := m.Here(ctx, p.worker)
		m.tell(event{proc: p, gone: true, exit: err})
	}()
	return nil
}

// start runs a child process.
func (m *Master) start(p *proc, image *os.File) error {
	path, err := exec.LookPath(m.Path)
	if err != nil && image == nil {
		return err
	}
	now := openImage(path)
	if image != nil && !sameFile(image, now) {
		path = imagePath(image)
		closeAll(now)
		now = nil
	}
	p.cmd = exec.Command(path)
	p.cmd.Args = append([]string{m.Path}, m.Args...)
	p.cmd.Dir = m.Dir
	p.cmd.SysProcAttr = m.attributes()
	p.cmd.Env = append(os.Environ(), m.Env...)
	p.cmd.ExtraFiles = []*os.File{m.socket}

	var theirs, output, pen *os.File
	err = func() (err error) {
		if m.Foreign {
			p.cmd.Env = append(p.cmd.Env, "LISTEN_FDS=1", "LISTEN_FDNAMES="+m.Name)
		} else {
			if p.link, theirs, err = newLinks(); err != nil {
				return err
			}
			told, err := json.Marshal(place{Slot: p.slot, Generation: p.generation, Row: p.row, Beat: m.HeartbeatTimeout / 5})
			if err != nil {
				return err
			}
			p.cmd.Env = append(p.cmd.Env, placeVariable+"="+string(told))
			p.cmd.ExtraFiles = append(p.cmd.ExtraFiles, theirs, m.turnsFile)
		}
		if output, pen, err = os.Pipe(); err != nil {
			return err
		}
		p.cmd.Stdout, p.cmd.Stderr = pen, pen
		return startChild(p.cmd)
	}()
	closeAll(theirs, pen)
	if err != nil {
		closeAll(output, now)
		if p.link != nil {
			p.link.close()
		}
		return err
	}
	p.image = now
	go m.attend(p, output)
	return nil
}

// closeAll closes those of the files that are open.
func closeAll(files ...*os.File) {
	for _, f := range files {
		if f != nil {
			f.Close()
		}
	}
}

// lastWords is how long after a process's end its output and messages are waited for. They are in the kernel by then,
// so this matters only when another process holds the output open.
const lastWords = 200 * time.Millisecond

// attend reads what a child says until it is gone.
func (m *Master) attend(p *proc, output *os.File) {
	var reading sync.WaitGroup
	reading.Go(func() { m.copyLines(p, output) })
	if p.link != nil {
		reading.Go(func() {
			for {
				msg, err := p.link.receive()
				if err != nil {
					return
				}
				m.tell(event{proc: p, message: msg})
			}
		})
	}
	exit := waitChild(p.cmd)
	read := make(chan struct{})
	go func() {
		reading.Wait()
		close(read)
	}()
	select {
	case <-read:
	case <-time.After(lastWords):
	}
	output.Close()
	if p.link != nil {
		p.link.close()
	}
	<-read
	m.tell(event{proc: p, gone: true, exit: exit})
}

// drain asks a process to finish what it has and end; by force after StopTimeout.
func (m *Master) drain(p *proc, replaced bool) {
	if p.draining {
		return
	}
	p.draining = true
	p.deadline, p.late = time.Now().Add(m.StopTimeout), fmt.Sprintf("it did not drain in %v", m.StopTimeout)
	switch {
	case p.cmd == nil:
		p.worker.replaced.Store(replaced)
		p.cancel()
	case p.link != nil && p.link.send(message{Drain: &drain{Replaced: replaced}}) == nil:
	default:
		_ = p.cmd.Process.Signal(syscall.SIGTERM)
	}
}

// kill ends a process at once. What the master's own process runs can't be killed: it is given up.
func (m *Master) kill(p *proc, why string) {
	if p.killed != "" {
		return
	}
	p.killed = why
	m.Logger.Warn("worker killed", "server", m.Name, "worker", p.slot, "pid", p.pid(), "cause", why)
	if p.cmd == nil {
		m.bury(p, errors.New(why))
		return
	}
	_ = p.cmd.Process.Kill()
}

// longestLine is where a line of output is cut in two, in bytes.
const longestLine = 64 << 10

// copyLines hands on a child's output line by line. For the cause of its end it keeps the line that begins a Go
// program's stack trace, or else the last one.
func (m *Master) copyLines(p *proc, output io.Reader) {
	in := bufio.NewReaderSize(output, longestLine)
	crashed := false
	for {
		line, err := in.ReadSlice('\n')
		if len(line) > 0 {
			crash := bytes.HasPrefix(line, []byte("panic: ")) || bytes.HasPrefix(line, []byte("fatal error: "))
			if words := strings.TrimSpace(string(line)); words != "" && (crash || !crashed) {
				p.words.Store(&words)
			}
			crashed = crashed || crash
			_, _ = m.Output.Write(line)
		}
		if err != nil && !errors.Is(err, bufio.ErrBufferFull) {
			return
		}
	}
}

func sameFile(a, b *os.File) bool {
	if a == nil || b == nil {
		return false
	}
	x, err := a.Stat()
	if err != nil {
		return false
	}
	y, err := b.Stat()
	return err == nil && os.SameFile(x, y) && x.ModTime().Equal(y.ModTime())
}
