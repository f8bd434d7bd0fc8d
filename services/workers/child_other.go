//go:build !linux

package workers

import (
	"log/slog"
	"os"
	"os/exec"
	"syscall"
)

func startChild(cmd *exec.Cmd) error { return cmd.Start() }

func waitChild(cmd *exec.Cmd) error { return cmd.Wait() }

func (m *Master) attributes() *syscall.SysProcAttr { return &syscall.SysProcAttr{Setpgid: true} }

// Become turns this process into another program. It returns only when that fails.
func Become(path string, args, env []string) error { return syscall.Exec(path, args, env) }

func openImage(string) *os.File { return nil } // a binary can't be started by its descriptor here

func imagePath(*os.File) string { return "" }

// Reap is Linux's: elsewhere nobody runs Balanza as process 1.
func Reap(*slog.Logger) {}
