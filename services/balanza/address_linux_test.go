package main

import (
	"fmt"
	"os/exec"
	"strings"
	"syscall"
	"testing"

	"balanza/e2e/testenv"
)

// An address as that of an interface, in a network namespace of its own.
func TestUpOnAnInterface(t *testing.T) {
	t.Parallel()
	namespace := exec.Command("sleep", "infinity")
	namespace.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET, Pdeathsig: syscall.SIGKILL}
	if err := namespace.Start(); err != nil {
		testenv.SkipOrFail(t, err)
	}
	t.Cleanup(func() { _ = namespace.Process.Kill(); _ = namespace.Wait() })
	enter := []string{"nsenter", "--net", "--target", fmt.Sprint(namespace.Process.Pid)}
	for _, command := range []string{"ip link set lo up", "ip addr add 10.9.9.1/32 dev lo"} {
		words := append(enter[1:], strings.Fields(command)...)
		if out, err := exec.Command(enter[0], words...).CombinedOutput(); err != nil {
			testenv.SkipOrFail(t, fmt.Errorf("%s: %w: %s", command, err, out))
		}
	}
	newHome(t).checkUp("10.9.9.1", "http://10.9.9.1", enter...)
}
