package workers

import (
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"os/signal"
	"runtime"
	"strconv"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"
)

// children are the processes that this one starts and waits for; ReapOrphans leaves them alone.
var children = childProcesses{pids: map[int]bool{}}

type childProcesses struct {
	mu   sync.Mutex
	pids map[int]bool
}

// start starts cmd. The lock keeps ReapOrphans from taking a child that ends at once for an orphan.
func (c *childProcesses) start(cmd *exec.Cmd) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	err := cmd.Start()
	if err == nil {
		c.pids[cmd.Process.Pid] = true
	}
	return err
}

// wait waits for cmd's end, kills what is left of its process group, and returns cmd.Wait's error.
func (c *childProcesses) wait(cmd *exec.Cmd) error {
	pid := cmd.Process.Pid
	// WNOWAIT leaves a zombie, so that the group's number cannot be another group's when it is killed.
	for errors.Is(unix.Waitid(unix.P_PID, pid, nil, unix.WEXITED|unix.WNOWAIT, nil), unix.EINTR) {
	}
	_ = unix.Kill(-pid, unix.SIGKILL)
	err := cmd.Wait()
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.pids, pid)
	return err
}

// reapOthers waits for every dead child that was not started here. It tries each process of /proc: for one that lives,
// or is nobody's child, wait4 does nothing.
func (c *childProcesses) reapOthers(log *slog.Logger) {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil || c.pids[pid] {
			continue
		}
		var status unix.WaitStatus
		if got, err := unix.Wait4(pid, &status, unix.WNOHANG, nil); err == nil && got == pid {
			log.Debug("orphan process reaped", "pid", pid, "status", status.ExitStatus())
		}
	}
}

// ReapOrphans does the duty of process 1 in a container: it waits for orphans that the kernel gives to this process, so
// that they do not stay as zombies. In any other process it does nothing.
func ReapOrphans(log *slog.Logger) {
	if os.Getpid() != 1 {
		return
	}
	deaths := make(chan os.Signal, 1)
	signal.Notify(deaths, syscall.SIGCHLD)
	go func() {
		for range deaths {
			children.reapOthers(log)
		}
	}()
}

// attributes gives each worker a process group of its own: a terminal sends Ctrl-C and hang-ups to the master alone, and
// when the master dies the kernel wakes the stopped workers of orphaned groups, which then see their master's end.
// An external program does not watch its master: the kernel kills it when the master's thread, which Run locks for this,
// ends.
func (s *Server) attributes() *syscall.SysProcAttr {
	a := &syscall.SysProcAttr{Setpgid: true}
	if s.External {
		a.Pdeathsig = syscall.SIGKILL
	}
	return a
}

// Exec turns this process, which a master of external programs started, into such a program: path is its binary, args
// include its name, env is its environment. It returns only when that fails.
func Exec(path string, args, env []string) error {
	// The kernel keeps the signal for the parent's death per thread, and the thread that calls exec is the one that stays.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	if err := unix.Prctl(unix.PR_SET_PDEATHSIG, uintptr(unix.SIGKILL), 0, 0, 0); err != nil {
		return os.NewSyscallError("prctl", err)
	}
	return syscall.Exec(path, args, env)
}

// openImage opens a program's binary, so that it can be started again when its path names another one; nil when it
// cannot be opened.
func openImage(path string) *os.File {
	f, err := os.Open(path)
	if err != nil {
		return nil
	}
	return f
}

// imagePath is a path of an open binary that stays valid when the file is moved or removed.
func imagePath(image *os.File) string { return fmt.Sprintf("/proc/%d/fd/%d", os.Getpid(), image.Fd()) }
