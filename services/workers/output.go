package workers

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"sync"
	"time"
)

// maxPredecessorCause is how many bytes of a cause a successor is told.
const maxPredecessorCause = 200

// cause says in one line why a process has ended.
func (p *process) cause() string {
	if line := p.output.String(); line != "" && (!p.explained || p.output.IsCrash()) {
		return p.exitCause() + ": " + line
	}
	return p.exitCause()
}

// exitCause is cause without what the process wrote.
func (p *process) exitCause() string {
	switch {
	case p.killCause != "":
		return p.killCause
	case p.failure != "":
		return p.failure
	case p.exit != nil:
		return p.exit.Error()
	}
	return "exited with status 0"
}

// ownMemory is the control group of this process, and so of its workers. All servers of the process share it, since each kill
// is one process's.
var ownMemory = sync.OnceValue(func() *memoryGroup { return findMemoryGroup("/") })

// explainKill says of a process that somebody else has killed whether that was the kernel, since there was no memory.
func (p *process) explainKill(memory *memoryGroup) {
	if p.exitCause() != "signal: killed" || !memory.killed() {
		return
	}
	p.killCause, p.explained = "killed by the kernel: the machine has no memory left", true
	if limit := memory.limit(); limit > 0 {
		p.killCause = fmt.Sprintf("killed by the kernel: the memory limit of %d MiB is reached", limit>>20)
	}
}

// asPredecessor describes a process that died to its successor. Of what the process wrote only the error of a crash is
// part of that: any other line may be about something else.
func (p *process) asPredecessor() Predecessor {
	cause := p.exitCause()
	if p.output.IsCrash() {
		cause = p.cause()
	}
	return Predecessor{p.pid(), cut(cause, maxPredecessorCause)}
}

const (
	// maxLine is the size in bytes above which a line of output is cut in two.
	maxLine = 64 << 10
	// promptDelay is how long the end of a line is waited for before its beginning is passed on. A program that asks for
	// input writes no end.
	promptDelay = 200 * time.Millisecond
)

// copyLines passes a child's output on line by line, and finds the cause of the child's end in it. The writer of the output
// ends a line that has no end, so that what follows a prompt is a line of its own.
func (s *Server) copyLines(p *process, output *os.File) {
	buffer, partial := make([]byte, maxLine), 0 // partial is how many bytes of a line without its end it begins with
	continued := false                          // the next bytes belong to a line that was cut
	for {
		n, err := output.Read(buffer[partial:])
		text := buffer[:partial+n]
		partial = 0
		for line := range bytes.Lines(text) {
			ended := line[len(line)-1] == '\n'
			if !ended && err == nil && len(line) < maxLine {
				partial = copy(buffer, line)
				break
			}
			if !continued {
				p.output.Add(line)
			}
			_, _ = s.Output.Write(line)
			continued = !ended && len(line) == maxLine
		}
		if err != nil && !errors.Is(err, os.ErrDeadlineExceeded) {
			return
		}
		var deadline time.Time // none
		if partial > 0 {
			deadline = time.Now().Add(promptDelay)
		}
		_ = output.SetReadDeadline(deadline)
	}
}
