package workers

import (
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"os/signal"
	"strconv"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"

	"balanza/services/workers/descendants"
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

// killAdopted kills the orphans that the kernel gave to this process, and their descendants, except those for which
// independent is true. They are the rest of a program whose parent was killed.
func (c *childProcesses) killAdopted(independent func(pid int) bool) {
	descendants.Kill(os.Getpid(), func(pid int) bool {
		c.mu.Lock()
		defer c.mu.Unlock()
		return c.pids[pid] || independent != nil && independent(pid)
	})
}

// ReapOrphans does the duty of process 1 in a container: it waits for orphans that the kernel gives to this process, so
// that they do not stay as zombies. In any other process it does nothing.
func ReapOrphans(log *slog.Logger) {
	if os.Getpid() == 1 {
		reapOrphans(log)
	}
}

// adoptOrphans makes the kernel give the orphans among this process's descendants to it, which then waits for them.
func adoptOrphans(log *slog.Logger) {
	if err := descendants.BecomeSubreaper(); err != nil {
		log.Warn("what a killed program leaves behind cannot be ended", "cause", err)
	}
	reapOrphans(log)
}

func reapOrphans(log *slog.Logger) {
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
func attributes() *syscall.SysProcAttr { return &syscall.SysProcAttr{Setpgid: true} }

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
