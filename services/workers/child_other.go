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

func (childProcesses) killAdopted(func(int) bool) {} // only Linux gives this process orphans

func attributes() *syscall.SysProcAttr { return &syscall.SysProcAttr{Setpgid: true} }

func adoptOrphans(*slog.Logger) {}

func openImage(string) *os.File { return nil } // a binary cannot be started by its descriptor here

func imagePath(*os.File) string { return "" }

// ReapOrphans does nothing here: Balanza runs as process 1 only in containers, which are Linux's.
func ReapOrphans(*slog.Logger) {}
