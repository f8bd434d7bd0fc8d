// Package logfile writes log files without ever blocking the writer, and reads them while they are written and rotated.
package logfile

import (
	"bytes"
	"io"
	"log/slog"
	"slices"
	"sync/atomic"
	"time"
)

// Sink writes lines to one writer from a goroutine of its own, so that neither a full disk nor a reader that has stopped
// can block a server. Lines that can't be written in time are dropped, and their number is written once there is room.
type Sink struct {
	to      io.Writer
	lines   chan []byte // nil: the end
	dropped atomic.Int64
	done    chan struct{}
}

// maxWrite is how many bytes of lines one call of the writer gets at most, unless a single line is longer: as many as a pipe
// takes at once (PIPE_BUF), so that they are never mixed with those of another process.
const maxWrite = 4096

// queueLines is how many lines may wait: more than a server writes while a disk hesitates, and at most a few MiB.
const queueLines = 4096

// NewSink returns a sink that writes to a writer.
func NewSink(to io.Writer) *Sink {
	s := &Sink{to: to, lines: make(chan []byte, queueLines), done: make(chan struct{})}
	go s.run()
	return s
}

// run writes the lines, those that wait together.
func (s *Sink) run() {
	defer close(s.done)
	var piece []byte
	lines := int64(0) // in piece
	write := func() {
		if lines == 0 {
			return
		}
		if _, err := s.to.Write(piece); err != nil {
			s.dropped.Add(lines)
		} else if n := s.dropped.Swap(0); n > 0 {
			slog.New(slog.NewJSONHandler(s.to, nil)).Warn("lines dropped: they could not be written in time", "lines", n)
		}
		piece, lines = piece[:0], 0
	}
	for line := range s.lines {
		if line == nil {
			write()
			return
		}
		if len(piece)+len(line) > maxWrite {
			write()
		}
		piece, lines = append(piece, line...), lines+1
		if len(s.lines) == 0 {
			write()
		}
	}
}

// Write takes lines, and ends the last one where it has no end: that of a program that crashed has none. It never fails and
// never waits.
func (s *Sink) Write(lines []byte) (int, error) {
	for line := range bytes.Lines(lines) {
		whole := slices.Clone(line)
		if !bytes.HasSuffix(whole, []byte("\n")) {
			whole = append(whole, '\n')
		}
		select {
		case s.lines <- whole:
		default:
			s.dropped.Add(1)
		}
	}
	return len(lines), nil
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
