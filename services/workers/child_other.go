//go:build !linux

package workers

import (
	"log/slog"
	"os/exec"
	"syscall"
)

func startChild(cmd *exec.Cmd) error { return cmd.Start() }

func waitChild(cmd *exec.Cmd) error { return cmd.Wait() }

func (m *Master) attributes() *syscall.SysProcAttr { return &syscall.SysProcAttr{Setpgid: true} }

// Reap is Linux's: elsewhere nobody runs Balanza as process 1.
func Reap(*slog.Logger) {}
