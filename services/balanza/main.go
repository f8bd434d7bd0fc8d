// Balanza: one binary that serves the site, alone or as a cluster, and manages the processes that do.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"
)

// version is set by the linker (-X main.version=…).
var version = "dev"

func main() {
	signals := make(chan os.Signal, 4)
	signal.Notify(signals, syscall.SIGTERM, syscall.SIGINT, syscall.SIGHUP)
	os.Exit(run(signals, os.Args[1:], os.Stdout, os.Stderr))
}

// Exit statuses: what went wrong while running, and what was asked for wrongly.
const (
	exitFailure = 1
	exitUsage   = 2
)

// program is what a command needs of the world.
type program struct {
	settings settings
	signals  <-chan os.Signal
	out, err io.Writer
}

// command is one word of `balanza WORD`.
type command struct {
	word, arguments, help string
	run                   func(p *program, args []string) error
}

// usageError is something asked for wrongly: one line, exit status 2.
type usageError struct{ error }

func usagef(format string, args ...any) error { return usageError{fmt.Errorf(format, args...)} }

// run is the whole program; it returns its exit status.
func run(signals <-chan os.Signal, args []string, out, errs io.Writer) int {
	p := &program{signals: signals, out: out, err: errs}
	err := p.dispatch(args)
	switch _, wrong := errors.AsType[usageError](err); {
	case err == nil, errors.Is(err, flag.ErrHelp):
		return 0
	case wrong:
		fmt.Fprintf(errs, "balanza: %v\n", err)
		return exitUsage
	default:
		fmt.Fprintf(errs, "balanza: %v\n", err)
		return exitFailure
	}
}

func (p *program) dispatch(args []string) error {
	var err error
	if p.settings, err = loadSettings(); err != nil {
		return usageError{err}
	}
	if len(args) == 0 || len(args[0]) > 1 && args[0][0] == '-' {
		return p.serve(args)
	}
	for _, c := range commands() {
		if c.word == args[0] {
			return c.run(p, args[1:])
		}
	}
	return usagef("%q is not a command; see balanza --help", args[0])
}

// untilSignal returns a context that ends at SIGTERM or SIGINT. SIGHUP calls reload, a second signal to end calls kill
// and ends the process.
func (p *program) untilSignal(reload, kill func()) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancel(context.Background())
	go func() {
		ending := false
		for s := range p.signals {
			switch {
			case s == syscall.SIGHUP:
				go reload()
			case ending:
				kill()
				os.Exit(exitFailure)
			default:
				ending = true
				cancel()
			}
		}
	}()
	return ctx, cancel
}

// flags returns an empty set of flags whose errors are one line; help is printed by the command that owns them.
func flags(word string) *flag.FlagSet {
	f := flag.NewFlagSet(word, flag.ContinueOnError)
	f.SetOutput(io.Discard)
	f.Usage = func() {}
	return f
}

// parse takes flags and positional arguments in any order and returns the latter.
func (p *program) parse(f *flag.FlagSet, args []string) (rest []string, err error) {
	for {
		if err := f.Parse(args); errors.Is(err, flag.ErrHelp) {
			p.help(f)
			return nil, err
		} else if err != nil {
			return nil, usageError{err}
		}
		if f.NArg() == 0 {
			return rest, nil
		}
		rest = append(rest, f.Arg(0))
		args = f.Args()[1:]
	}
}

func commands() []command {
	return []command{
		{"up", "[--profile cluster] [-d] [--watch]", "a whole balanced topology on this machine", (*program).up},
		{"down", "", "end what `up` started", (*program).down},
		{"start", "NAME | --name NAME --p PORT …", "start a stopped server, or a new one in the background", (*program).start},
		{"ps", "[--json]", "the servers and their processes", (*program).ps},
		{"reload", "[NAME|PORT …]", "replace the processes one at a time, losing no request", (*program).reload},
		{"restart", "[NAME|PORT …]", "end the processes and start new ones", (*program).restart},
		{"scale", "NAME=N …", "change how many workers a CLUSTER server has", (*program).scale},
		{"stop", "[NAME|PORT …]", "drain and stop", (*program).stop},
		{"delete", "[NAME|PORT …]", "stop and forget", (*program).delete},
		{"monit", "", "a live view of ps and logs", (*program).monit},
		{"run", "--port PORT [-i N] -- PROGRAM …", "cluster any program that takes its socket by LISTEN_FDS", (*program).runProgram},
		{"save", "", "write down what runs", (*program).save},
		{"resurrect", "", "start what was saved", (*program).resurrect},
		{"startup", "", "print a systemd unit that resurrects at boot", (*program).startup},
		{"logs", "[-f] [-n LINES] [NAME|PORT …]", "what they wrote", (*program).logs},
		{"healthcheck", "", "exit status 0 when the server on the port is ready", (*program).healthcheck},
		{"edge", "--p PORT --primary … --default …", "the balancer of `up`, alone", (*program).edge},
		{activateWord, "PROGRAM …", "", (*program).activate},
		{"init", "DIR", "passwords and certificate of the Compose stack", (*program).initialise},
		{"version", "", "what this is", (*program).version},
		{"help", "", "this text", func(p *program, _ []string) error { return p.serve([]string{"--help"}) }},
	}
}

func (p *program) version([]string) error {
	fmt.Fprintln(p.out, "balanza", version)
	return nil
}

func (p *program) initialise(args []string) error {
	if len(args) != 1 {
		return usagef("init takes one folder")
	}
	var s initSettings
	if err := fromEnvironment(prefix, &s); err != nil {
		return usageError{err}
	}
	return initialise(args[0], s)
}
