// Package logfile writes log files without ever blocking the writer, and reads them while they are written and rotated.
package logfile

import (
	"fmt"
	"io"
	"slices"
	"sync/atomic"
	"time"
)

// Sink writes lines to one writer from a goroutine of its own, so that neither a full disk nor a reader that has stopped
// can block a server. Lines that can't be written in time are dropped, and their number is written once there is room.
type Sink struct {
	to      io.Writer
	label   string
	lines   chan []byte // nil: the end
	dropped atomic.Int64
	done    chan struct{}
}

// queueLines is how many lines may wait: more than a server writes while a disk hesitates, and at most a few MiB.
const queueLines = 4096

// NewSink returns a sink that puts label before every line.
func NewSink(to io.Writer, label string) *Sink {
	s := &Sink{to: to, label: label, lines: make(chan []byte, queueLines), done: make(chan struct{})}
	go s.run()
	return s
}

// run writes the lines, one call of the writer for each, so that a line of a pipe is never mixed with another's.
func (s *Sink) run() {
	defer close(s.done)
	for line := range s.lines {
		if line == nil {
			return
		}
		if _, err := s.to.Write(line); err != nil {
			s.dropped.Add(1)
		} else if n := s.dropped.Swap(0); n > 0 {
			fmt.Fprintf(s.to, "%d lines dropped here: they could not be written in time\n", n)
		}
	}
}

// Write takes whole lines. It never fails and never waits.
func (s *Sink) Write(line []byte) (int, error) {
	select {
	case s.lines <- slices.Concat([]byte(s.label), line):
	default:
		s.dropped.Add(1)
	}
	return len(line), nil
}

// flushTimeout is how long the last lines may take.
const flushTimeout = 500 * time.Millisecond

// Close writes the lines that wait, as far as that takes at most half a second. Later lines are lost.
func (s *Sink) Close() {
	timeout := time.After(flushTimeout)
	select {
	case s.lines <- nil:
	case <-timeout:
		return
	}
	select {
	case <-s.done:
	case <-timeout:
	}
}
