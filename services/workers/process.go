package workers

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"balanza/services/workers/share"
)

// process is a worker as its master sees it: a child process, or the program run in the master itself (FORK).
type process struct {
	slot, generation int
	row              int // of the shared page; negative: none
	started          time.Time
	restarts         int         // of the slot before it
	predecessor      Predecessor // that died

	cmd       *exec.Cmd          // nil for the in-process worker
	conn      *conn              // nil for the in-process worker and for external programs
	inProcess *Worker            // nil for child processes
	cancel    context.CancelFunc // ends the in-process worker

	lastLine atomic.Pointer[string] // the line of output that best tells why it ended

	// All fields below belong to the goroutine of Server.Run.
	ready, draining bool
	deadline        time.Time // when it is killed; zero: never
	deadlineCause   string
	killCause       string    // why the master killed it; empty: it did not
	recycleAfter    time.Time // it is not recycled earlier
	image           *os.File  // the binary that was started, until a slot keeps it
	heartbeat       time.Time // when the last one arrived
	requests        int64
	counters        map[string]float64
	details         json.RawMessage
	exit            error
}

func (p *process) pid() int {
	if p.cmd == nil {
		return os.Getpid()
	}
	return p.cmd.Process.Pid
}

// cause says in one line why a process has ended.
func (p *process) cause() string {
	if line := p.lastLine.Load(); line != nil {
		return p.exitCause() + ": " + *line
	}
	return p.exitCause()
}

// exitCause is cause without what the process wrote.
func (p *process) exitCause() string {
	switch {
	case p.killCause != "":
		return p.killCause
	case p.exit != nil:
		return p.exit.Error()
	}
	return "exited with status 0"
}

// maxCause is how many bytes of a cause a successor is told.
const maxCause = 200

// asPredecessor describes a process that died to its successor. Of what the process wrote only the line of a crash is part
// of that: any other may be about something else.
func (p *process) asPredecessor() Predecessor {
	cause := p.exitCause()
	if line := p.lastLine.Load(); line != nil && isCrash([]byte(*line)) {
		cause += ": " + *line
	}
	return Predecessor{p.pid(), strings.ToValidUTF8(cause[:min(len(cause), maxCause)], "")}
}

// event is a worker's message, or the end of its process, on its way to the goroutine of Server.Run.
type event struct {
	process *process
	message
	exited bool
	exit   error // of the process, when exited
}

// freeRow finds a row of the shared page that no living process has.
func (s *Server) freeRow() int {
	used := map[int]bool{}
	for p := range s.processes {
		used[p.row] = true
	}
	row := 0
	for used[row] && row < share.MaxProcesses-1 {
		row++
	}
	return row
}

// spawn starts a process for a slot. image, unless nil, is the binary to run in place of the one that Path names now.
func (s *Server) spawn(slot *workerSlot, generation int, image *os.File) (*process, error) {
	now := time.Now()
	p := &process{
		slot: slot.number, generation: generation, row: -1, started: now, heartbeat: now,
		restarts: slot.restarts, predecessor: slot.died,
		deadline: now.Add(s.ReadyTimeout), deadlineCause: fmt.Sprintf("not ready after %v", s.ReadyTimeout),
	}
	var err error
	if s.InProcess != nil && generation == 1 {
		err = s.startInProcess(p)
	} else {
		p.row = s.freeRow()
		err = s.startChild(p, image)
	}
	if err != nil {
		return nil, err
	}
	s.processes[p] = true
	return p, nil
}

// startInProcess runs the program in the master's own process.
func (s *Server) startInProcess(p *process) error {
	ln, err := s.socket.InProcess()
	if err != nil {
		return err
	}
	var ctx context.Context
	ctx, p.cancel = context.WithCancel(context.Background())
	p.inProcess = newWorker(p.slot, p.generation, ln, func(m message) error {
		s.post(event{process: p, message: m})
		return nil
	})
	go func() {
		defer ln.Close()
		err := s.InProcess(ctx, p.inProcess)
		s.post(event{process: p, exited: true, exit: err})
	}()
	return nil
}

// startChild runs the program in a child process.
func (s *Server) startChild(p *process, image *os.File) error {
	path, err := exec.LookPath(s.Path)
	if err != nil && image == nil {
		return err
	}
	current := openImage(path)
	if image != nil && !sameFile(image, current) {
		path = imagePath(image)
		closeAll(current)
		current = nil
	}
	p.cmd = exec.Command(path)
	p.cmd.Args = append([]string{s.Path}, s.Args...)
	p.cmd.Dir = s.Dir
	p.cmd.SysProcAttr = s.attributes()
	p.cmd.Env = append(os.Environ(), s.Env...)
	p.cmd.ExtraFiles = s.socket.Files()

	var childConn, output, childOutput *os.File
	if s.External {
		p.cmd.Env = append(p.cmd.Env, "LISTEN_FDS=1", "LISTEN_FDNAMES="+s.Name)
	} else {
		var env string
		env, err = workerEnv{p.slot, p.generation, p.row, s.HeartbeatTimeout / 5, p.restarts, p.predecessor}.encode()
		if err == nil {
			p.conn, childConn, err = newConnPair()
		}
		p.cmd.Env = append(p.cmd.Env, env)
		p.cmd.ExtraFiles = append([]*os.File{p.cmd.ExtraFiles[0], childConn}, p.cmd.ExtraFiles[1:]...)
	}
	if err == nil {
		output, childOutput, err = os.Pipe()
	}
	if err == nil {
		p.cmd.Stdout, p.cmd.Stderr = childOutput, childOutput
		err = children.start(p.cmd)
	}
	closeAll(childConn, childOutput)
	if err != nil {
		closeAll(output, current)
		if p.conn != nil {
			p.conn.close()
		}
		return err
	}
	p.image = current
	go s.waitChild(p, output)
	return nil
}

// closeAll closes those of the files that are not nil.
func closeAll(files ...*os.File) {
	for _, f := range files {
		if f != nil {
			f.Close()
		}
	}
}

// outputGrace is how long a process's output and messages are read after its end. They are in the kernel's buffers by
// then, so that reading them takes longer only where another process holds the output open.
const outputGrace = 200 * time.Millisecond

// waitChild reads a child's output and messages until it has ended, and posts its end as the last event.
func (s *Server) waitChild(p *process, output *os.File) {
	var reading sync.WaitGroup
	reading.Go(func() { s.copyLines(p, output) })
	if p.conn != nil {
		reading.Go(func() {
			for {
				m, err := p.conn.receive()
				if err != nil {
					return
				}
				s.post(event{process: p, message: m})
			}
		})
	}
	exit := children.wait(p.cmd)
	read := make(chan struct{})
	go func() {
		reading.Wait()
		close(read)
	}()
	select {
	case <-read:
	case <-time.After(outputGrace):
	}
	output.Close()
	if p.conn != nil {
		p.conn.close()
	}
	<-read
	s.post(event{process: p, exited: true, exit: exit})
}

// send gives the worker a message. An external program has no way to get one.
func (p *process) send(m message) error {
	switch {
	case p.inProcess != nil:
		p.inProcess.handle(m, p.cancel)
		return nil
	case p.conn != nil:
		return p.conn.send(m)
	}
	return errors.ErrUnsupported
}

// drain orders a process to finish what it has and end, and has it killed after StopTimeout. replaced: other processes
// go on accepting on its socket.
func (s *Server) drain(p *process, replaced bool, cause string) {
	if p.draining {
		return
	}
	p.draining = true
	p.deadline, p.deadlineCause = time.Now().Add(s.StopTimeout), fmt.Sprintf("it did not drain in %v", s.StopTimeout)
	go func() { // a child that does not read its messages must not hold up the master
		if p.send(message{Drain: &drain{Replaced: replaced, Cause: cause}}) != nil {
			_ = p.cmd.Process.Signal(syscall.SIGTERM)
		}
	}()
}

// kill ends a process at once. The in-process worker cannot be killed: the server forgets it.
func (s *Server) kill(p *process, why string) {
	if p.killCause != "" {
		return
	}
	p.killCause = why
	s.Logger.Warn("worker killed", "server", s.Name, "worker", p.slot, "pid", p.pid(), "cause", why)
	if p.cmd == nil {
		s.onExit(p, errors.New(why))
		return
	}
	_ = p.cmd.Process.Kill()
}

// maxLine is the size in bytes above which a line of output is cut in two.
const maxLine = 64 << 10

// copyLines passes a child's output on line by line. As the cause of the child's end it keeps the line that begins a Go
// program's stack trace, or else the last one.
func (s *Server) copyLines(p *process, output io.Reader) {
	in := bufio.NewReaderSize(output, maxLine)
	crashed := false
	for {
		line, err := in.ReadSlice('\n')
		if len(line) > 0 {
			crash := isCrash(line)
			if text := strings.TrimSpace(string(line)); text != "" && (crash || !crashed) {
				p.lastLine.Store(&text)
			}
			crashed = crashed || crash
			_, _ = s.Output.Write(line)
		}
		if err != nil && !errors.Is(err, bufio.ErrBufferFull) {
			return
		}
	}
}

// isCrash tells whether a line begins a Go program's stack trace.
func isCrash(line []byte) bool {
	return bytes.HasPrefix(line, []byte("panic: ")) || bytes.HasPrefix(line, []byte("fatal error: "))
}

// sameFile tells whether two open files are the same, unchanged one. A nil file equals none.
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
