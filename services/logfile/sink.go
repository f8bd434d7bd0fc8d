// Package logfile writes log files without ever blocking the writer, and reads them while they are written and rotated.
package logfile

import (
	"bytes"
	"io"
	"log/slog"
	"sync"
	"time"
)

// Sink writes lines to one writer from a goroutine of its own, so that neither a full disk nor a reader that has stopped
// can block a server. A single line is written at once, those that follow within interval together. Lines that can't be
// written in time are dropped, and their number is written once there is room. Its methods may be called by several
// goroutines.
type Sink struct {
	to   io.Writer
	wake chan struct{} // of capacity 1: there is a first line, or much, or the end
	done chan struct{}

	mu      sync.Mutex
	waiting []byte
	dropped int // lines since the last report
	closed  bool
}

const (
	// maxWrite is how many bytes of lines one call of the writer gets at most, unless a single line is longer: as many as a
	// pipe takes at once (PIPE_BUF), so that they are never mixed with those of another process.
	maxWrite = 4096
	// maxWaiting is how many bytes may wait: more than a server writes while a disk hesitates.
	maxWaiting = 2 << 20
	// much is how many bytes are written without a wait for interval.
	much     = 32 << 10
	interval = 10 * time.Millisecond

	// flushTimeout is how long the last lines may take.
	flushTimeout = 500 * time.Millisecond
)

// NewSink returns a sink that writes to a writer. Close must be called.
func NewSink(to io.Writer) *Sink {
	s := &Sink{to: to, wake: make(chan struct{}, 1), done: make(chan struct{})}
	go s.run()
	return s
}

// Write takes lines, and ends the last one where it has no end: that of a program that crashed has none. It never fails and
// never waits.
func (s *Sink) Write(lines []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	first := len(s.waiting) == 0
	for line := range bytes.Lines(lines) {
		if s.closed || len(s.waiting)+len(line) > maxWaiting {
			s.dropped++
			continue
		}
		s.waiting = append(s.waiting, line...)
		if line[len(line)-1] != '\n' {
			s.waiting = append(s.waiting, '\n')
		}
	}
	if first || len(s.waiting) >= much {
		s.signal()
	}
	return len(lines), nil
}

func (s *Sink) signal() {
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

// run writes what has come. Without lines it sleeps.
func (s *Sink) run() {
	defer close(s.done)
	var spare []byte
	var last time.Time // of a write
	for range s.wake {
		s.gather(last.Add(interval))
		s.mu.Lock()
		lines, dropped, closed := s.waiting, s.dropped, s.closed
		s.waiting, s.dropped = spare[:0], 0
		s.mu.Unlock()
		dropped += s.write(lines)
		if dropped > 0 && !s.report(dropped) {
			s.mu.Lock()
			s.dropped += dropped
			s.mu.Unlock()
		}
		if closed {
			return
		}
		last = time.Now()
		if spare = lines; cap(spare) > 4*much { // of a time when the output was slow
			spare = nil
		}
	}
}

// gather returns at a time, or before when there is much to write, or nothing to wait for.
func (s *Sink) gather(until time.Time) {
	timer := time.NewTimer(time.Until(until))
	defer timer.Stop()
	for {
		s.mu.Lock()
		enough := s.closed || len(s.waiting) >= much
		s.mu.Unlock()
		if enough {
			return
		}
		select {
		case <-s.wake:
		case <-timer.C:
			return
		}
	}
}

// write writes whole lines, and returns how many could not be written.
func (s *Sink) write(lines []byte) (failed int) {
	for len(lines) > 0 {
		piece := lines[:min(len(lines), maxWrite)]
		if end := bytes.LastIndexByte(piece, '\n'); end >= 0 {
			piece = piece[:end+1]
		} else { // one long line
			piece = lines[:bytes.IndexByte(lines, '\n')+1]
		}
		if _, err := s.to.Write(piece); err != nil {
			failed += bytes.Count(piece, []byte("\n"))
		}
		lines = lines[len(piece):]
	}
	return failed
}

// report writes how many lines were dropped.
func (s *Sink) report(dropped int) bool {
	var line bytes.Buffer
	slog.New(slog.NewJSONHandler(&line, nil)).Warn("lines dropped: they could not be written in time", "lines", dropped)
	_, err := s.to.Write(line.Bytes())
	return err == nil
}

// Close writes the lines that wait, as far as that takes at most half a second. Later lines are lost.
func (s *Sink) Close() {
	s.mu.Lock()
	s.closed = true
	s.signal()
	s.mu.Unlock()
	select {
	case <-s.done:
	case <-time.After(flushTimeout):
	}
}
