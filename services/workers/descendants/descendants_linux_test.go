package descendants

import (
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// childVariable makes the test binary a subreaper that starts a shell and tells, on its standard output, what is left.
const childVariable = "DESCENDANTS_TEST_SCRIPT"

func TestMain(m *testing.M) {
	script, ok := os.LookupEnv(childVariable)
	if !ok {
		os.Exit(m.Run())
	}
	if err := BecomeSubreaper(); err != nil {
		panic(err)
	}
	cmd := exec.Command("sh", "-c", script)
	cmd.Stderr = os.Stderr
	if err := cmd.Run(); err != nil {
		panic(err)
	}
	before := Of(os.Getpid(), nil)
	Kill(os.Getpid(), nil)
	_, _ = os.Stdout.WriteString(strconv.Itoa(len(before)) + " " + strconv.Itoa(len(Of(os.Getpid(), nil))))
	os.Exit(0)
}

// What a shell leaves behind that has ended is found and killed, in other sessions and deaf to SIGTERM too.
func TestKillEndsWhatIsLeft(t *testing.T) {
	for script, want := range map[string]int{
		"true":          0,
		"sleep 1000 & ": 1,
		"setsid sleep 1000 & (sleep 1000 & sleep 1000 &) & sleep 0.2":                      3,
		"(trap '' TERM HUP; setsid sh -c 'sleep 1000; true' & setsid sleep 1000 & wait) &": 4,
	} {
		if want == 4 {
			script += " sleep 0.2"
		}
		cmd := exec.Command(os.Args[0])
		cmd.Env = append(os.Environ(), childVariable+"="+script)
		out, err := cmd.Output()
		before, after, _ := strings.Cut(string(out), " ")
		if n, _ := strconv.Atoi(before); err != nil || n < want || want == 0 && n != 0 || after != "0" {
			t.Errorf("%s: %q, %v; at least %d processes and then none are expected", script, out, err, want)
		}
	}
}

// A chain of processes, each of which starts the next one and ends, is never taken for nothing.
func TestOfSeesAChain(t *testing.T) {
	if err := BecomeSubreaper(); err != nil {
		t.Fatal(err)
	}
	script := `chain() { [ "$1" = 0 ] || (chain $(($1 - 1)) &); }; chain 60; `
	cmd := exec.Command("sh", "-c", script+"exec sleep 1000")
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	for end := time.Now().Add(time.Second); time.Now().Before(end); {
		if !slices.Contains(Of(os.Getpid(), nil), cmd.Process.Pid) {
			t.Fatal("the process that started the chain is not seen")
		}
	}
	skipped := Of(os.Getpid(), func(pid int) bool { return pid == cmd.Process.Pid })
	if slices.Contains(skipped, cmd.Process.Pid) {
		t.Error("a process that is to be skipped is not")
	}
	Kill(os.Getpid(), nil)
	_ = cmd.Wait()
}
