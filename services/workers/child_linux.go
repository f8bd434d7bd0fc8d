package workers

import (
	"bytes"
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

// children are the processes that we start and wait for ourselves; the reaper leaves them alone.
var children = struct {
	sync.Mutex
	pids map[int]bool
}{pids: map[int]bool{}}

// startChild starts cmd so that the reaper never takes it for an orphan.
func startChild(cmd *exec.Cmd) error {
	children.Lock()
	defer children.Unlock()
	err := cmd.Start()
	if err == nil {
		children.pids[cmd.Process.Pid] = true
	}
	return err
}

// waitChild waits for cmd's end, ends what is left of its process group, and returns cmd.Wait's error.
func waitChild(cmd *exec.Cmd) error {
	pid := cmd.Process.Pid
	// Dead but not reaped: until Wait, the number of its group can't be another's.
	for errors.Is(unix.Waitid(unix.P_PID, pid, nil, unix.WEXITED|unix.WNOWAIT, nil), unix.EINTR) {
	}
	_ = unix.Kill(-pid, unix.SIGKILL)
	err := cmd.Wait()
	children.Lock()
	delete(children.pids, pid)
	children.Unlock()
	return err
}

// attributes gives each worker a process group of its own: a terminal's Ctrl-C and hang-up are for the master alone, and
// when the master dies the kernel wakes a stopped worker of an orphaned group, which then sees its master's end.
// A program that is not ours does not watch its master: the kernel kills it when the master's thread, which is locked
// for this, ends.
func (m *Master) attributes() *syscall.SysProcAttr {
	a := &syscall.SysProcAttr{Setpgid: true}
	if m.Foreign {
		a.Pdeathsig = syscall.SIGKILL
	}
	return a
}

// Become turns this process, which a master of programs that are not ours started, into such a program: its binary, its
// arguments with its name, its environment. It returns only when that fails.
func Become(path string, args, env []string) error {
	// The kernel's order to kill belongs to a thread, and whichever executes the program is the one that stays.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	if err := unix.Prctl(unix.PR_SET_PDEATHSIG, uintptr(unix.SIGKILL), 0, 0, 0); err != nil {
		return os.NewSyscallError("prctl", err)
	}
	return syscall.Exec(path, args, env)
}

// openImage opens a program's binary, so that it can be started again when its path leads to another; nil if it can't.
func openImage(path string) *os.File {
	f, err := os.Open(path)
	if err != nil {
		return nil
	}
	return f
}

// imagePath is a path of an open binary, whatever has become of its own.
func imagePath(image *os.File) string { return fmt.Sprintf("/proc/%d/fd/%d", os.Getpid(), image.Fd()) }

// Reap does process 1's duty in a container: it buries the orphans that the kernel hands to this process. It does
// nothing in any other process.
func Reap(log *slog.Logger) {
	if os.Getpid() != 1 {
		return
	}
	deaths := make(chan os.Signal, 1)
	signal.Notify(deaths, syscall.SIGCHLD)
	go func() {
		for range deaths {
			for _, pid := range orphans() {
				var status unix.WaitStatus
				if got, err := unix.Wait4(pid, &status, unix.WNOHANG, nil); err == nil && got == pid {
					log.Debug("orphan buried", "pid", pid, "status", status.ExitStatus())
				}
			}
		}
	}()
}

// orphans lists the dead children of this process that it did not start.
func orphans() (pids []int) {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return nil
	}
	children.Lock()
	defer children.Unlock()
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil || pid == 1 || children.pids[pid] {
			continue
		}
		stat, err := os.ReadFile("/proc/" + e.Name() + "/stat")
		if err != nil {
			continue
		}
		// pid (name) state ppid …; the name may hold anything, even a parenthesis
		fields := bytes.Fields(stat[bytes.LastIndexByte(stat, ')')+1:])
		if len(fields) > 1 && string(fields[0]) == "Z" && string(fields[1]) == "1" {
			pids = append(pids, pid)
		}
	}
	return pids
}
