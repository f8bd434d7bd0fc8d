//go:build !linux

package instance

import (
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
)

func attributes() *syscall.SysProcAttr { return &syscall.SysProcAttr{Setpgid: true} }

// startAndReap starts the program and waits for it.
func (i *instance) startAndReap(cmd *exec.Cmd) error {
	if err := cmd.Start(); err != nil {
		return err
	}
	i.pid = cmd.Process.Pid
	go func() {
		_ = cmd.Wait()
		i.status = cmd.ProcessState.Sys().(syscall.WaitStatus)
		close(i.ended)
	}()
	return nil
}

// notifyAddress is the name of a new file.
func notifyAddress() (name string, cleanUp func(), err error) {
	dir, err := os.MkdirTemp("", "balanza")
	return filepath.Join(dir, "notify"), func() { os.RemoveAll(dir) }, err
}

func (i *instance) openPorts() []int { return nil } // the system does not tell

func (i *instance) ownsPort(int) bool { return true }
