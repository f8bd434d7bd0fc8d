package workers

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
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
	image  *os.File           // the binary that was started, open: its code can be started again when its path is something else

	readied chan struct{} // closed when it serves
	done    chan struct{} // closed when it is gone and its output read
	words   atomic.Value  // string: the last line that it wrote

	// The rest belongs to the master's goroutine.
	ready, draining bool
	killed          string // why the master killed it
	beaten          time.Time
	requests        int64
	counters        map[string]float64
	exit            error
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
	if words, _ := p.words.Load().(string); words != "" {
		why += ": " + words
	}
	return why
}

// drain asks it to finish and end.
func (p *proc) drain(replaced bool) {
	p.draining = true
	switch {
	case p.cmd == nil:
		p.worker.replaced.Store(replaced)
		p.cancel()
	case p.link != nil && p.link.send(message{Drain: &drain{Replaced: replaced}}) == nil:
	default:
		_ = p.cmd.Process.Signal(syscall.SIGTERM)
	}
}

// kill ends it at once.
func (p *proc) kill(why string) {
	if p.killed == "" {
		p.killed = why
	}
	if p.cmd != nil {
		_ = p.cmd.Process.Kill()
	}
}

// event is news of a proc for the master's goroutine.
type event struct {
	proc *proc
	message
	gone bool
}

func (m *Master) tell(e event) {
	select {
	case m.events <- e:
	case <-m.over:
	}
}

// start runs a child process for a slot. image, unless nil, is the binary to run in place of what the path names now.
func (m *Master) start(slot int, image *os.File) (*proc, error) {
	p := &proc{
		slot: slot, generation: m.generation, row: m.freeRow(), started: time.Now(), beaten: time.Now(),
		readied: make(chan struct{}), done: make(chan struct{}),
	}
	path, err := exec.LookPath(m.Path)
	if err != nil && image == nil {
		return nil, err
	}
	if now, err := os.Open(path); err == nil {
		p.image = now
	}
	if image != nil && !sameFile(image, p.image) {
		if p.image != nil {
			p.image.Close()
		}
		p.image = image
		path = fmt.Sprintf("/proc/%d/fd/%d", os.Getpid(), image.Fd())
	}
	p.cmd = exec.Command(path)
	p.cmd.Args = append([]string{m.Path}, m.Args...)
	p.cmd.Dir = m.Dir
	p.cmd.SysProcAttr = m.attributes()
	p.cmd.Env = append(os.Environ(), m.Env...)

	listener, err := m.Listener.File()
	if err != nil {
		return nil, err
	}
	defer listener.Close()
	p.cmd.ExtraFiles = []*os.File{listener}
	var theirs *os.File
	if m.Foreign {
		p.cmd.Env = append(p.cmd.Env, "LISTEN_FDS=1", "LISTEN_FDNAMES="+m.Name)
	} else {
		if p.link, theirs, err = newLinks(); err != nil {
			return nil, err
		}
		defer theirs.Close()
		told, err := json.Marshal(place{Slot: slot, Generation: p.generation, Row: p.row, Beat: m.HeartbeatTimeout / 5})
		if err != nil {
			return nil, err
		}
		p.cmd.Env = append(p.cmd.Env, placeVariable+"="+string(told))
		p.cmd.ExtraFiles = append(p.cmd.ExtraFiles, theirs, m.turnsFile)
	}
	output, pen, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	defer pen.Close()
	p.cmd.Stdout, p.cmd.Stderr = pen, pen

	if err := startChild(p.cmd); err != nil {
		output.Close()
		if p.link != nil {
			p.link.close()
		}
		if p.image != nil && p.image != image {
			p.image.Close()
		}
		return nil, err
	}
	go m.attend(p, output)
	return p, nil
}

// attend reads what a child says until it is gone.
func (m *Master) attend(p *proc, output *os.File) {
	if p.link != nil {
		go func() {
			for {
				msg, err := p.link.receive()
				if err != nil {
					return
				}
				m.tell(event{proc: p, message: msg})
			}
		}()
	}
	read := make(chan struct{})
	go func() {
		defer close(read)
		m.copyLines(p, output)
	}()
	p.exit = waitChild(p.cmd)
	// A grandchild may hold the pipe open: what the worker itself wrote is there by now.
	select {
	case <-read:
	case <-time.After(100 * time.Millisecond):
	}
	_ = output.Close()
	if p.link != nil {
		p.link.close()
	}
	close(p.done)
	m.tell(event{proc: p, gone: true})
}

// longestLine is where a line of output is cut in two.
const longestLine = 64 << 10

func (m *Master) copyLines(p *proc, output io.Reader) {
	in := bufio.NewReaderSize(output, longestLine)
	for {
		line, err := in.ReadSlice('\n')
		if len(line) > 0 {
			if words := strings.TrimSpace(string(line)); words != "" {
				p.words.Store(words)
			}
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
