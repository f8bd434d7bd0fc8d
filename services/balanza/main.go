// Balanza: one binary that serves the site, alone or as a cluster, and manages the processes that do.
package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"sync"
	"syscall"

	"balanza/services/workers"
)

// main registers the signals before anything else, so that none that comes during the start is lost.
func main() {
	signals := make(chan os.Signal, 4)
	signal.Notify(signals, syscall.SIGTERM, syscall.SIGINT, syscall.SIGHUP)
	os.Exit(run(signals, os.Args[1:], os.Stdout, os.Stderr))
}

// Exit statuses. A command that a signal ended has 128 and the signal's number, as in a shell.
const (
	exitFailure     = 1
	exitUsage       = 2
	exitInterrupted = 128
)

// program is what the commands share.
type program struct {
	settings    settings
	settingsErr error    // why the settings can't be used, for the commands that need them
	args        []string // of the whole command line, flags with two hyphens
	signals     <-chan os.Signal
	out, err    io.Writer
	redirected  bool // standard output follows a log file: see logFile
	// persistentPath is a path of this program that stays: see keepProgram.
	persistentPath func() (string, error)
	// launch, unless nil, gets how the server that the command line starts would be started, and nothing is: see parseUpdate.
	launch      *workers.Launch
	environment []string // of this process, without .env
	service     *notifier
}

// usageError is a mistake on the command line or in the settings. It is one line, and the exit status is 2.
type usageError struct{ error }

// usagef returns a usageError in the user's language.
func usagef(format string, args ...any) error { return usageError{errorf(format, args...)} }

// run executes one command line and returns the exit status. Signals are those of the process: a command that serves
// reads them itself, any other ends at the first.
func run(signals <-chan os.Signal, args []string, out, errs io.Writer) int {
	p := &program{signals: signals, out: toTerminal(out), err: errs, service: newNotifier()}
	p.persistentPath = sync.OnceValues(p.keepProgram) // once: up -f starts several servers at the same time
	p.environment = os.Environ()                      // before loadSettings adds what .env says
	p.settings, p.settingsErr = loadSettings()
	root := p.root()
	p.args = doubleHyphens(root, args)
	root.SetArgs(p.args)
	err := root.Execute()
	if err == nil {
		return 0
	}
	signal, interrupted := errors.AsType[interruption](err)
	if err != error(signal) { // an interruption alone needs no words
		fmt.Fprintf(toTerminal(errs), "balanza: %v\n", err) // it may quote what a server's process wrote
	}
	switch _, usage := errors.AsType[usageError](err); {
	case interrupted:
		return signal.status()
	case usage:
		return exitUsage
	}
	return exitFailure
}
