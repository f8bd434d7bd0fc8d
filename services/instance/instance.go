// Package instance runs one program of any kind as the worker of a master (package workers): it starts the program, finds
// out when it is ready and whether it is healthy, passes orders on to it, and ends all that it has started, however the
// program or the master ends.
package instance

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"regexp"
	"strconv"
	"sync/atomic"
	"syscall"
	"time"

	"balanza/services/workers"
	"balanza/services/workers/descendants"
)

// Config describes the program and how it is looked after.
type Config struct {
	// Command is the program, which is looked up anew by its path or in PATH, and its arguments. $PORT and ${PORT} in these
	// stand for the port.
	Command []string
	Env     []string // NAME=value, all of the program's environment besides PORT and NOTIFY_SOCKET
	// Activate, with InheritSocket, is the command that becomes the program: it sets LISTEN_PID, which is known only in that
	// process (sd_listen_fds(3)).
	InheritSocket bool
	Activate      []string

	ReadyPath   string // a path of which the program answers 200 when it is ready; empty: none
	ReadyNotify bool   // it is ready not before it says so (READY=1 of sd_notify(3))
	HealthPath  string // a path that it answers with 2xx while it is healthy; empty: none

	StopSignal   syscall.Signal // that tells it to end
	ReadyTimeout time.Duration  // from its start to ready, or from one that it asks for by EXTEND_TIMEOUT_USEC
	StopTimeout  time.Duration  // from StopSignal to SIGKILL, or likewise
	// Independent tells whether a process that the program has started, and all that this one starts, outlives it. nil: none.
	Independent func(pid int) bool
}

const (
	livedDelay     = time.Second             // how long a program without a port must live to count as ready
	readyPoll      = 50 * time.Millisecond   // between two looks for its port
	probeTimeout   = 2 * time.Second         // of a request for ReadyPath or HealthPath
	endPoll        = 10 * time.Millisecond   // between two looks for what is left of it
	restTimeout    = time.Second             // from SIGTERM to SIGKILL of what a program leaves behind that has ended
	orphanTimeout  = time.Second             // from the master's death to SIGKILL
	wrongPortDelay = 1500 * time.Millisecond // how long another port than its own must be open to be told
)

// instance is a running program.
type instance struct {
	Config
	w       *workers.Worker
	pid     int
	started time.Time
	ended   chan struct{} // closed when the program itself has ended
	status  syscall.WaitStatus
	notes   chan notification

	notified  bool         // it has said READY=1
	reloading atomic.Int64 // until when it may reload itself, after RELOADING=1, in Unix milliseconds; 0: it does not
}

// Run starts the program and returns when it and all that it has started have ended: because ctx ended, or by itself. The
// master is told why then, so that this is no error of Run's.
func (c Config) Run(ctx context.Context, w *workers.Worker) error {
	if err := descendants.BecomeSubreaper(); err != nil {
		return err
	}
	socket, notes, err := listenNotify(w.Warn)
	if err != nil {
		return err
	}
	defer socket.Close()
	i := &instance{Config: c, w: w, started: time.Now(), ended: make(chan struct{}), notes: notes}
	if err = i.start(socket.name); err == nil {
		w.SetProgram(i.pid)
		err = i.supervise(ctx)
	}
	if err != nil {
		_, explained := errors.AsType[explainedError](err)
		w.Fail(err.Error(), explained)
	}
	return nil
}

// portReference is the variable in an argument, as a shell reads it: $PORTABLE and $PORT_2 are other variables.
var portReference = regexp.MustCompile(`\$(PORT\b|\{PORT\})`)

// withPort replaces the references in an argument.
func withPort(argument, port string) string {
	return portReference.ReplaceAllLiteralString(argument, port)
}

// start starts the program as the leader of a process group.
func (i *instance) start(notifySocket string) error {
	command := make([]string, len(i.Command))
	port := strconv.Itoa(i.w.Port)
	for n, argument := range i.Command {
		if n > 0 && i.w.Port > 0 {
			argument = withPort(argument, port)
		}
		command[n] = argument
	}
	if _, err := exec.LookPath(command[0]); err != nil {
		return err
	}
	if i.InheritSocket {
		command = append(append([]string{}, i.Activate...), command...)
	}
	cmd := exec.Command(command[0], command[1:]...)
	cmd.Env = append(i.Env, "NOTIFY_SOCKET="+notifySocket)
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	cmd.SysProcAttr = attributes()
	if i.w.Port > 0 {
		cmd.Env = append(cmd.Env, "PORT="+port)
	}
	if i.InheritSocket {
		cmd.ExtraFiles = []*os.File{i.w.Socket}
	}
	return i.startAndReap(cmd)
}

// supervise looks after the program until it has ended.
func (i *instance) supervise(ctx context.Context) error {
	readiness := time.NewTicker(readyPoll)
	defer readiness.Stop()
	deadline := i.started.Add(i.ReadyTimeout)
	check := &readyCheck{instance: i}
	for ready := false; ; {
		select {
		case <-ctx.Done():
			return i.stop()
		case <-i.ended:
			return i.onEnd()
		case n := <-i.notes:
			i.onNotification(n)
			if n.extend > 0 && !ready {
				i.w.Extend(n.extend)
				deadline = time.Now().Add(n.extend)
			}
		case <-readiness.C:
			if ready {
				break
			}
			if address, ok := check.ready(); ok {
				ready = true
				readiness.Stop()
				i.becomeReady(address)
			} else if time.Now().After(deadline) {
				err := fmt.Errorf("not ready after %v: %s", time.Since(i.started).Round(100*time.Millisecond), check.why)
				i.endAll(i.StopSignal, restTimeout)
				if check.wrong != 0 {
					return explainedError{err}
				}
				return err
			}
		}
	}
}

// becomeReady tells the master, and begins to look after the program's health.
func (i *instance) becomeReady(address string) {
	if i.HealthPath != "" {
		i.w.Health = func() error { return i.health(address) }
	}
	i.w.ReadyAt(address)
}

// onNotification keeps what the program says of itself.
func (i *instance) onNotification(n notification) {
	if n.reloading {
		i.reloading.Store(time.Now().Add(i.ReadyTimeout).UnixMilli())
	}
	if n.ready {
		i.notified = true
		i.reloading.Store(0)
	}
	if n.stopping {
		i.w.Leave()
	}
}

// stop ends the program on the master's order, or because the master is dead.
func (i *instance) stop() error {
	timeout := i.StopTimeout
	if i.w.Orphaned() {
		timeout = min(timeout, orphanTimeout)
	}
	i.endAll(i.StopSignal, timeout)
	return nil
}

// onEnd ends what is left of a program that has ended by itself, and returns why it has.
func (i *instance) onEnd() error {
	left := i.left()
	i.endAll(syscall.SIGTERM, restTimeout)
	cause := describe(i.status)
	if i.status.ExitStatus() == 0 && len(left) > 0 {
		return explainedError{fmt.Errorf("%s and left process %d in the background; a program must stay in the foreground to be looked after",
			cause, left[0])}
	}
	return errors.New(cause)
}

// explainedError is a reason to which the program's output adds nothing.
type explainedError struct{ error }

// describe says how a process ended, in the words of os.ProcessState.
func describe(s syscall.WaitStatus) string {
	switch {
	case s.Signaled() && s.CoreDump():
		return fmt.Sprintf("signal: %v (core dumped)", s.Signal())
	case s.Signaled():
		return fmt.Sprintf("signal: %v", s.Signal())
	case s.ExitStatus() == 0:
		return "exited with status 0"
	}
	return fmt.Sprintf("exit status %d", s.ExitStatus())
}

// endAll sends a signal to the program's process group and waits until all of that has ended, but not for longer than
// timeout. Then what else the program has started gets SIGTERM, and what is left after restTimeout SIGKILL.
func (i *instance) endAll(s syscall.Signal, timeout time.Duration) {
	deadline := time.Now().Add(timeout)
	_ = syscall.Kill(-i.pid, s) // the group may have ended
	_ = syscall.Kill(-i.pid, syscall.SIGCONT)
	for i.groupLives() && time.Now().Before(deadline) {
		select {
		case n := <-i.notes:
			if n.extend > 0 && !i.w.Orphaned() {
				i.w.Extend(n.extend)
				deadline = time.Now().Add(n.extend)
			}
		case <-time.After(endPoll):
		}
		if i.w.Orphaned() && time.Until(deadline) > orphanTimeout { // the master died during the drain
			deadline = time.Now().Add(orphanTimeout)
		}
	}
	if i.groupLives() {
		i.w.Warn(fmt.Sprintf("killed, since it did not end in %v", timeout))
	} else if left := i.left(); len(left) > 0 {
		descendants.Signal(os.Getpid(), i.Independent, syscall.SIGTERM)
		for end := time.Now().Add(restTimeout); len(i.left()) > 0 && time.Now().Before(end); {
			time.Sleep(endPoll)
		}
	}
	descendants.Kill(os.Getpid(), i.Independent)
}

// groupLives tells whether the program's process group has a member.
func (i *instance) groupLives() bool {
	return !errors.Is(syscall.Kill(-i.pid, 0), syscall.ESRCH)
}

// left are the processes that the program has started, and itself, as far as they live.
func (i *instance) left() []int { return descendants.Of(os.Getpid(), i.Independent) }
