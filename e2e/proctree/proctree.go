// Package proctree reads from the operating system what tests check about processes: children, state, CPU time, memory. It
// stops processes, too.
package proctree

import (
	"errors"
	"fmt"
	"io/fs"
	"runtime"
	"slices"
	"syscall"
	"testing"
	"time"

	"github.com/shirou/gopsutil/v4/process"
)

// find returns a process, and fails the test when there is none with that pid.
func find(t *testing.T, pid int) *process.Process {
	t.Helper()
	p, err := process.NewProcess(int32(pid))
	if err != nil {
		t.Fatalf("process %d: %v", pid, err)
	}
	return p
}

// Children returns the pids of a process's children, in ascending order, with the zombies among them.
func Children(t *testing.T, pid int) (pids []int) {
	t.Helper()
	children, err := find(t, pid).Children()
	if err != nil {
		t.Fatalf("children of process %d: %v", pid, err)
	}
	for _, c := range children {
		pids = append(pids, int(c.Pid))
	}
	return pids
}

// Exited returns nil once a process has exited, and an error with its state before. A zombie has exited: its parent may
// be slow to wait for it.
func Exited(pid int) error {
	p, err := process.NewProcess(int32(pid))
	if errors.Is(err, process.ErrorProcessNotRunning) {
		return nil
	}
	if err != nil {
		return err
	}
	state, err := p.Status()
	if errors.Is(err, fs.ErrNotExist) || slices.Contains(state, process.Zombie) {
		return nil
	}
	return errors.Join(fmt.Errorf("process %d has not exited: %s", pid, state), err)
}

// Stop stops a process with SIGSTOP and returns when all its threads have stopped: until then it may answer. Where the state of
// threads is not shown, the test is skipped.
func Stop(t *testing.T, pid int) {
	t.Helper()
	if runtime.GOOS != "linux" {
		t.Skip("only Linux shows the state of threads")
	}
	if err := syscall.Kill(pid, syscall.SIGSTOP); err != nil {
		t.Fatalf("stopping process %d: %v", pid, err)
	}
	eventually(t, func() error { return stopped(pid) })
}

// eventually waits until f returns nil, for at most ten seconds.
func eventually(t *testing.T, f func() error) {
	t.Helper()
	for began := time.Now(); f() != nil; time.Sleep(time.Millisecond) {
		if time.Since(began) > 10*time.Second {
			t.Fatal(f())
		}
	}
}

// stopped returns nil once a signal has stopped all threads of a process, and an error before.
func stopped(pid int) error {
	p, err := process.NewProcess(int32(pid))
	if err != nil {
		return err
	}
	threads, err := p.Threads()
	if err != nil {
		return err
	}
	for tid := range threads {
		thread := process.Process{Pid: tid} // Linux shows a thread as it shows a process
		if state, err := thread.Status(); err == nil && !slices.Contains(state, process.Stop) {
			return fmt.Errorf("thread %d of process %d is not stopped: %s", tid, pid, state)
		}
	}
	return nil
}

// UserTime returns the CPU time that a process has spent in user mode, 0 when it has exited. Linux counts it in steps of
// 10 ms.
func UserTime(pid int) time.Duration {
	p, err := process.NewProcess(int32(pid))
	if err != nil {
		return 0
	}
	times, err := p.Times()
	if err != nil {
		return 0
	}
	return time.Duration(times.User * float64(time.Second)).Round(time.Millisecond)
}

// Descriptors returns the number of a process's open file descriptors.
func Descriptors(t *testing.T, pid int) int {
	t.Helper()
	n, err := find(t, pid).NumFDs()
	if err != nil {
		t.Fatalf("file descriptors of process %d: %v", pid, err)
	}
	return int(n)
}
