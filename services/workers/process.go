package workers

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"sync"
	"syscall"
	"time"

	"balanza/services/workers/descendants"
	"balanza/services/workers/share"
)

// process is a worker as its master sees it: a child process, or the program run in the master itself (FORK).
type process struct {
	slot, generation int
	launch           Launch
	forOrder         bool
	row              int // of the shared page; negative: none
	port             int // that its program may listen on; 0: none
	started          time.Time
	restarts         int         // of the slot before it
	predecessor      Predecessor // that died

	cmd       *exec.Cmd          // nil for the in-process worker
	conn      *conn              // nil for the in-process worker
	inProcess *Worker            // nil for child processes
	cancel    context.CancelFunc // ends the in-process worker

	output Cause // what it wrote; to be read after its end

	// All fields below belong to the goroutine of Server.Run.
	ready, draining bool
	deadline        time.Time // when it is killed; zero: never
	deadlineCause   string
	killCause       string    // why the master killed it; empty: it did not
	failure         string    // why it ends, as it says itself
	explained       bool      // by failure alone, unless its program has crashed
	unhealthy       string    // why it sends no heartbeat
	degraded        string    // what keeps it from a part of its work
	program         int       // pid of the program that it runs; 0: none
	address         string    // of that program, for the front
	recycleAfter    time.Time // it is not recycled earlier
	image           *os.File  // the binary that was started, until a slot keeps it
	heartbeat       time.Time // when the last one arrived
	requests        int64
	counters        map[string]float64
	details         json.RawMessage
	exit            error
}

// pid is that of the process that serves.
func (p *process) pid() int {
	switch {
	case p.cmd == nil:
		return os.Getpid()
	case p.program != 0:
		return p.program
	}
	return p.cmd.Process.Pid
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

// spawn starts a process for a slot, as launch says. image, unless nil, is the binary to run in place of the one that Path names now.
// forOrder says that an order fails when the process does not get ready.
func (s *Server) spawn(slot *workerSlot, launch Launch, generation int, image *os.File, forOrder bool) (*process, error) {
	now := time.Now()
	p := &process{
		slot: slot.number, generation: generation, launch: launch, forOrder: forOrder, row: -1, started: now, heartbeat: now,
		restarts: slot.restarts, predecessor: slot.died,
		deadline: now.Add(launch.ReadyTimeout), deadlineCause: fmt.Sprintf("not ready after %v", launch.ReadyTimeout),
	}
	var err error
	switch {
	case s.InProcess != nil && generation == 1:
		err = s.startInProcess(p)
	case s.Programs:
		p.deadline = p.deadline.Add(programGrace)
		if s.NewFront != nil {
			p.port, err = s.freePort()
		}
		if err == nil {
			err = s.startChild(p, image)
		}
	default:
		p.row = s.freeRow()
		err = s.startChild(p, image)
	}
	if err != nil {
		return nil, err
	}
	s.processes[p] = true
	return p, nil
}

// programGrace is how much later than the parent of a program its master acts: the parent keeps the limits of time itself,
// and knows better what went wrong.
const programGrace = 5 * time.Second

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
	path, err := exec.LookPath(p.launch.Path)
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
	p.cmd.Args = append([]string{p.launch.Path}, p.launch.Args...)
	p.cmd.Dir = p.launch.Dir
	p.cmd.SysProcAttr = attributes()
	env, err := workerEnv{p.slot, p.generation, p.row, p.launch.HeartbeatTimeout / 5, p.restarts, p.predecessor, p.port, p.forOrder}.encode()
	if err != nil {
		return err
	}
	p.cmd.Env = append(append(os.Environ(), p.launch.Env...), env)
	if p.launch.Dir != "" {
		p.cmd.Env = append(p.cmd.Env, "PWD="+p.launch.Dir) // the path by which the user named it, symbolic links and all
	}

	var null, childConn, output, childOutput *os.File
	p.conn, childConn, err = newConnPair()
	if err == nil {
		output, childOutput, err = os.Pipe()
	}
	if err == nil && (s.socket == nil || s.front != nil) {
		null, err = os.Open(os.DevNull)
		p.cmd.ExtraFiles = []*os.File{null, childConn}
	} else if err == nil {
		files := s.socket.Files()
		p.cmd.ExtraFiles = append([]*os.File{files[0], childConn}, files[1:]...)
	}
	if err == nil {
		p.cmd.Stdout, p.cmd.Stderr = childOutput, childOutput
		err = children.start(p.cmd)
	}
	closeAll(null, childConn, childOutput)
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
	if s.Programs {
		children.killAdopted(s.Independent)
	}
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

// send gives the worker a message.
func (p *process) send(m message) error {
	if p.inProcess != nil {
		p.inProcess.handle(m, p.cancel)
		return nil
	}
	return p.conn.send(m)
}

// drain orders a process to finish what it has and end, and has it killed after its StopTimeout. replaced: other processes
// go on accepting on its socket. A program behind a front gets the order when its requests have been answered, and has
// StopTimeout from then on.
func (s *Server) drain(p *process, replaced bool, cause string) {
	if p.draining {
		return
	}
	p.draining = true
	timeout := p.launch.StopTimeout
	p.deadline, p.deadlineCause = time.Now().Add(timeout), fmt.Sprintf("it did not drain in %v", timeout)
	if s.Programs {
		p.deadline = p.deadline.Add(programGrace)
	}
	leave := func() {}
	if s.front != nil {
		p.deadline = p.deadline.Add(timeout)
		leave = s.leaveFront(s.front, p.address, timeout)
	}
	go func() { // a child that does not read its messages must not hold up the master
		leave()
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
	if s.Programs {
		descendants.Kill(p.cmd.Process.Pid, s.Independent) // while it can be told what is theirs
	}
	_ = p.cmd.Process.Kill()
}

// leaveFront returns a function that waits until the program at an address has no requests in flight: it gets no more, or,
// when the server stops, no program does.
func (s *Server) leaveFront(front *runningFront, address string, timeout time.Duration) func() {
	stopping := s.stopping
	return func() {
		ctx, cancel := context.WithTimeout(context.Background(), timeout)
		defer cancel()
		if !stopping {
			front.Remove(ctx, address)
			return
		}
		select {
		case <-front.ended:
		case <-ctx.Done():
		}
	}
}

// residentMemory is that of a process and of all that it has started, in bytes.
func (s *Server) residentMemory(p *process, tree func() descendants.Tree) (size int64) {
	if !s.Programs {
		return ResidentMemory(p.pid())
	}
	for _, pid := range s.pids(tree(), p) {
		size += ResidentMemory(pid)
	}
	return size
}

// pids are a process and all that the program that it runs has started.
func (s *Server) pids(tree descendants.Tree, p *process) []int {
	return append(tree.Of(p.cmd.Process.Pid, s.Independent), p.cmd.Process.Pid)
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
