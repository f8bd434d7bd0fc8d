package main

import (
	"bytes"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"time"

	"gopkg.in/natefinch/lumberjack.v2"
)

// output is where a server's lines go: what the program was started from, and the server's log file. Writing never
// waits: lines that a full disk or a reader that stopped can't take are dropped and counted.
type output struct {
	sinks  []*sink
	file   string // empty: none
	format string
	logger *slog.Logger
}

// openOutput opens the output of the server of that name; label is put before its lines where they are shown among
// others'. Without a place for log files (a read-only container) there are none.
func (p *program) openOutput(name, label string) *output {
	o := &output{format: p.logFormat()}
	if !inBackground() {
		o.sinks = append(o.sinks, newSink(labelled{p.err, label}))
	}
	if p.settings.LogSize > 0 && os.MkdirAll(p.settings.logsDir(), 0o700) == nil {
		o.file = filepath.Join(p.settings.logsDir(), name+".log")
		o.sinks = append(o.sinks, newSink(&lumberjack.Logger{
			Filename: o.file, MaxSize: p.settings.LogSize, MaxBackups: p.settings.LogFiles,
		}))
	}
	o.logger = newLogger(o, o.format)
	return o
}

func newLogger(w io.Writer, format string) *slog.Logger {
	if format == "json" {
		return slog.New(slog.NewJSONHandler(w, nil))
	}
	return slog.New(slog.NewTextHandler(w, nil))
}

// Write takes whole lines.
func (o *output) Write(line []byte) (int, error) {
	line = bytes.Clone(line)
	for _, s := range o.sinks {
		s.put(line)
	}
	return len(line), nil
}

// Close writes what is waiting, as far as that needs no wait.
func (o *output) Close() {
	for _, s := range o.sinks {
		s.close()
	}
}

// labelled puts a label before every line.
type labelled struct {
	to    io.Writer
	label string
}

func (l labelled) Write(line []byte) (int, error) {
	if l.label == "" {
		return l.to.Write(line)
	}
	_, err := l.to.Write(append([]byte(l.label), line...))
	return len(line), err
}

// sink writes lines to one writer from a goroutine of its own.
type sink struct {
	to      io.Writer
	lines   chan []byte
	mu      sync.Mutex
	dropped int
	closed  bool
	done    chan struct{}
}

// sinkLines is how many lines may wait.
const sinkLines = 4096

func newSink(to io.Writer) *sink {
	s := &sink{to: to, lines: make(chan []byte, sinkLines), done: make(chan struct{})}
	go func() {
		defer close(s.done)
		for line := range s.lines {
			if _, err := s.to.Write(line); err != nil {
				s.drop(1)
			} else if n := s.drop(0); n > 0 {
				fmt.Fprintf(s.to, "balanza: %d lines dropped here: they could not be written in time\n", n)
			}
		}
	}()
	return s
}

func (s *sink) put(line []byte) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return
	}
	select {
	case s.lines <- line:
	default:
		s.dropped++
	}
}

// drop counts n lines as lost; with 0 it returns the count and forgets it.
func (s *sink) drop(n int) (lost int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if n == 0 {
		lost, s.dropped = s.dropped, 0
	}
	s.dropped += n
	return lost
}

// closing is how long the last lines may take at the end.
const closing = 500 * time.Millisecond

func (s *sink) close() {
	s.mu.Lock()
	s.closed = true
	close(s.lines)
	s.mu.Unlock()
	select {
	case <-s.done:
	case <-time.After(closing):
	}
}
