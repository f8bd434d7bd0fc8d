//go:build !linux

package workers

import (
	"log/slog"
	"os"
	"os/exec"
	"syscall"
)

// children starts and waits for processes; elsewhere than on Linux it need not know them.
var children childProcesses

type childProcesses struct{}

func (childProcesses) start(cmd *exec.Cmd) error { return cmd.Start() }
func (childProcesses) wait(cmd *exec.Cmd) error  { return cmd.Wait() }

func (s *Server) attributes() *syscall.SysProcAttr { return &syscall.SysProcAttr{Setpgid: true} }

// Exec turns this process into another program: path is its binary, args include its name. It returns only when that
// fails.
func Exec(path string, args, env []string) error { return syscall.Exec(path, args, env) }

func openImage(string) *os.File { return nil } // a binary cannot be started by its descriptor here

func imagePath(*os.File) string { return "" }

// ReapOrphans does nothing here: Balanza runs as process 1 only in containers, which are Linux's.
func ReapOrphans(*slog.Logger) {}
