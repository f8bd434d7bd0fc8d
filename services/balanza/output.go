package main

import (
	"io"
	"log/slog"
	"os"

	"golang.org/x/term"
	"gopkg.in/natefinch/lumberjack.v2"

	"balanza/services/logfile"
)

// A master writes what its workers write, in the format that it would use itself: JSON for programs, one object a line, or
// text for people, depending on what standard error is.

// output is where a server's lines go: standard error, and the server's log file. Writing never blocks.
type output struct {
	io.Writer
	sinks  []*logfile.Sink
	file   string // empty: none
	format string
	logger *slog.Logger
}

// openOutput opens the output of the server of that name; label is put before its lines on standard error, where they
// are among those of others. Where no log file can be written (a read-only container) there is none.
func (p *program) openOutput(name, label string) *output {
	o := &output{format: p.logFormat()}
	if !inBackground() {
		o.sinks = append(o.sinks, logfile.NewSink(p.err, label))
	}
	if s := p.settings; s.LogSize > 0 && os.MkdirAll(s.logsDir(), 0o700) == nil {
		o.file = logfile.Path(s.logsDir(), name)
		rotated := &lumberjack.Logger{Filename: o.file, MaxSize: s.LogSize, MaxBackups: s.LogFiles}
		o.sinks = append(o.sinks, logfile.NewSink(&logfile.File{Logger: rotated, Redirect: inBackground() && !p.redirected}, ""))
		p.redirected = true
	}
	var writers []io.Writer
	for _, s := range o.sinks {
		writers = append(writers, s)
	}
	o.Writer = io.MultiWriter(writers...)
	o.logger = newLogger(o, o.format)
	return o
}

// Close writes the lines that wait, as far as that takes no longer than half a second.
func (o *output) Close() {
	for _, s := range o.sinks {
		s.Close()
	}
}

// newLogger returns a logger that writes JSON, one object a line, or readable text.
func newLogger(w io.Writer, format string) *slog.Logger {
	if format == "json" {
		return slog.New(slog.NewJSONHandler(w, nil))
	}
	return slog.New(slog.NewTextHandler(w, nil))
}

// logger writes to standard error without a log file: for a worker, whose output its master reads.
func (p *program) logger() *slog.Logger { return newLogger(p.err, p.logFormat()) }

// logFormat is text on a terminal and json elsewhere, unless the settings say which.
func (p *program) logFormat() string {
	if p.settings.LogFormat != "auto" {
		return p.settings.LogFormat
	}
	if f, ok := p.err.(*os.File); ok && term.IsTerminal(int(f.Fd())) {
		return "text"
	}
	return "json"
}
