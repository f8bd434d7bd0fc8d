package main

import (
	"bytes"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"syscall"
	"time"

	"golang.org/x/term"

	"balanza/services/logfile"
)

// Processes log JSON, one object a line, whatever starts them: workers to their master, masters to their log files. Text
// is made of it where people read: on standard error that is a terminal, and by logs and monit.

// output is where a server's lines go: standard error, and the server's log file. Writing never blocks.
type output struct {
	io.Writer
	sinks  []*logfile.Sink
	file   string // empty: none
	logger *slog.Logger
}

// openOutput opens the output of the server of that name; label is put before its lines on standard error, where they
// are among those of others. Where no log file can be written (a read-only container) there is none. From then on the
// process outlives the reader of its standard output and error.
func (p *program) openOutput(name, label string) *output {
	outliveReader()
	o := &output{}
	if !inBackground() {
		o.sinks = append(o.sinks, logfile.NewSink(p.standardError(label)))
	}
	if s := p.settings; s.LogSize > 0 && os.MkdirAll(s.logsDir(), 0o700) == nil {
		o.file = logfile.Path(s.logsDir(), name)
		o.sinks = append(o.sinks, logfile.NewSink(&logfile.File{
			Path: o.file, MaxSize: int64(s.LogSize) << 20, Backups: s.LogFiles, Redirect: inBackground() && !p.redirected,
		}))
		p.redirected = true
	}
	var writers []io.Writer
	for _, s := range o.sinks {
		writers = append(writers, s)
	}
	o.Writer = io.MultiWriter(writers...)
	o.logger = newLogger(o)
	return o
}

// outliveReader makes a write to a pipe without a reader an error. By default such a write to descriptor 1 or 2 ends a Go
// program by SIGPIPE. Notify is used and not Ignore: programs that this one starts would inherit an ignored signal.
func outliveReader() { signal.Notify(make(chan os.Signal, 1), syscall.SIGPIPE) }

// Close writes the lines that wait, as far as that takes no longer than half a second.
func (o *output) Close() {
	for _, s := range o.sinks {
		s.Close()
	}
}

// newLogger returns a logger that writes JSON, one object a line.
func newLogger(w io.Writer) *slog.Logger { return slog.New(slog.NewJSONHandler(w, nil)) }

// logger writes to standard error without a log file: for a worker, whose output its master reads.
func (p *program) logger() *slog.Logger { return newLogger(p.standardError("")) }

// standardError writes lines of logs to standard error, with label before each: as text on a terminal and as they are
// elsewhere, unless the settings say which.
func (p *program) standardError(label string) io.Writer {
	format := p.settings.LogFormat
	if f, ok := p.err.(*os.File); format == "auto" && ok && term.IsTerminal(int(f.Fd())) {
		format = "text"
	}
	return lineWriter{p.err, label, format == "text"}
}

// lineWriter writes lines with a label before each.
type lineWriter struct {
	to       io.Writer
	label    string
	readable bool
}

// Write writes whole lines, in one call.
func (w lineWriter) Write(lines []byte) (int, error) {
	var b bytes.Buffer
	for line := range bytes.Lines(lines) {
		line = bytes.TrimSuffix(line, []byte("\n"))
		if w.readable {
			line = logfile.Readable(line, time.Now())
		}
		b.WriteString(w.label)
		b.Write(line)
		b.WriteByte('\n')
	}
	if _, err := w.to.Write(b.Bytes()); err != nil {
		return 0, err
	}
	return len(lines), nil
}
