package main

import (
	"context"
	"os"
	"syscall"
	"time"
)

// interruption is the signal that ended a command before it was done.
type interruption struct{ signal syscall.Signal }

// Error says that the command was interrupted, in the user's language.
func (i interruption) Error() string { return text("interrupted") }

// status is the exit status that a shell gives to a process which the signal killed.
func (i interruption) status() int { return exitInterrupted + int(i.signal) }

// interruptGrace is how long an interrupted command may take to return: signals end every command within a second.
const interruptGrace = 800 * time.Millisecond

// untilInterrupted returns a context that INT, TERM and HUP end, with an interruption as its cause. A command that does
// not return in time then, say because nobody reads its output, ends with the process.
func (p *program) untilInterrupted() context.Context {
	ctx, cancel := context.WithCancelCause(context.Background())
	go func() {
		s, _ := (<-p.signals).(syscall.Signal)
		cause := interruption{s}
		cancel(cause)
		select {
		case <-p.signals:
		case <-time.After(interruptGrace):
		}
		os.Exit(cause.status())
	}()
	return ctx
}

// untilSignal returns a context for a command that serves. INT and TERM end it, and the servers drain. HUP calls reload,
// in a goroutine, since a reload may take long and must not delay a signal to end. A second INT or TERM calls kill and
// ends the process.
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
