package proctree

import (
	"os"
	"os/exec"
	"runtime"
	"runtime/debug"
	"slices"
	"testing"
	"time"
)

func TestChild(t *testing.T) {
	cmd := exec.Command("sleep", "60")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })
	pid := cmd.Process.Pid
	isChild := func() bool { return slices.Contains(Children(t, os.Getpid()), pid) }
	if !isChild() || Exited(pid) == nil || stopped(pid) == nil {
		t.Errorf("running: a child: %v, exited: %v, stopped: %v", isChild(), Exited(pid), stopped(pid))
	}
	Stop(t, pid)
	if Exited(pid) == nil {
		t.Error("a stopped process counts as exited")
	}
	_ = cmd.Process.Kill()
	eventually(t, func() error { return Exited(pid) })
	if !isChild() {
		t.Error("a zombie is not among the children")
	}
	_ = cmd.Wait()
	if isChild() || Exited(pid) != nil {
		t.Errorf("waited for: a child: %v, exited: %v", isChild(), Exited(pid))
	}
}

func TestMeasurements(t *testing.T) {
	pid := os.Getpid()
	debug.FreeOSMemory() // so that the block needs new pages
	memory, descriptors := PrivateMemory(t, pid), Descriptors(t, pid)

	block := make([]byte, 32<<20)
	for i := range block {
		block[i] = 1
	}
	f, err := os.Open(os.DevNull)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()

	if now := PrivateMemory(t, pid); now < memory+30<<20 {
		t.Errorf("32 MiB more: private memory was %d bytes and is %d", memory, now)
	}
	if now := Descriptors(t, pid); now <= descriptors {
		t.Errorf("one file more: there were %d descriptors and are %d", descriptors, now)
	}
	runtime.KeepAlive(block)
	before := UserTime(pid)
	for began := time.Now(); UserTime(pid) == before; {
		if time.Since(began) > 10*time.Second {
			t.Fatalf("ten seconds of work added nothing to %v of CPU time", before)
		}
	}
}
