package instance

import (
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime"
	"slices"
	"syscall"

	"golang.org/x/sys/unix"

	"balanza/services/workers/descendants"
)

// attributes makes the program the leader of a process group, which the kernel kills when the thread that started it ends:
// with this process, however that ends.
func attributes() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
}

// startAndReap starts the program, and waits for it and for the orphans of which this process is the subreaper.
func (i *instance) startAndReap(cmd *exec.Cmd) error {
	started := make(chan error)
	go func() {
		runtime.LockOSThread() // for as long as the process lives: see attributes
		err := cmd.Start()
		if err == nil {
			i.pid = cmd.Process.Pid
		}
		started <- err
		if err == nil {
			i.reap()
		}
	}()
	return <-started
}

// reap waits for children until the process ends.
func (i *instance) reap() {
	deaths := make(chan os.Signal, 1)
	signal.Notify(deaths, syscall.SIGCHLD)
	for {
		var status unix.WaitStatus
		switch pid, err := unix.Wait4(-1, &status, 0, nil); {
		case err == unix.EINTR:
		case err != nil: // there is no child at the moment
			<-deaths
		case pid == i.pid:
			i.status = syscall.WaitStatus(status)
			close(i.ended)
		}
	}
}

// notifyAddress is empty: the kernel chooses a name, which no file has (see "autobind" in unix(7)). So a killed process leaves no
// file, and containers that share a network but have numbers of processes of their own do not choose the same name.
func notifyAddress() (name string, cleanUp func(), err error) { return "", func() {}, nil }

// socketsOf are the inodes of the sockets that these processes have open.
func socketsOf(pids []int) map[uint32]bool {
	inodes := map[uint32]bool{}
	for _, pid := range pids {
		dir := fmt.Sprintf("/proc/%d/fd", pid)
		descriptors, _ := os.ReadDir(dir)
		for _, d := range descriptors {
			target, _ := os.Readlink(filepath.Join(dir, d.Name()))
			var inode uint32
			if n, _ := fmt.Sscanf(target, "socket:[%d]", &inode); n == 1 {
				inodes[inode] = true
			}
		}
	}
	return inodes
}

// openPorts are the ports on which the program, or what it has started, listens.
func (i *instance) openPorts() (ports []int) {
	own := socketsOf(i.left())
	for _, s := range listeningSockets() {
		if own[s.inode] {
			ports = append(ports, s.port)
		}
	}
	slices.Sort(ports)
	return slices.Compact(ports)
}

// ownsPort tells whether what listens on a port is the program, or what it has started. A socket that no process has that
// this one can look into is taken for the program's: a container's port belongs to the container engine.
func (i *instance) ownsPort(port int) bool {
	if slices.Contains(i.openPorts(), port) {
		return true
	}
	var others []int
	for _, processes := range descendants.Snapshot() {
		for _, p := range processes {
			others = append(others, p.PID)
		}
	}
	theirs := socketsOf(others)
	return !slices.ContainsFunc(listeningSockets(), func(s listeningSocket) bool { return s.port == port && theirs[s.inode] })
}
