package instance

import (
	"syscall"
	"testing"
)

func TestPortInArguments(t *testing.T) {
	for argument, want := range map[string]string{
		"$PORT":                        "9000",
		"${PORT}":                      "9000",
		"--listen=0.0.0.0:$PORT":       "--listen=0.0.0.0:9000",
		"$PORT/$PORT.sock":             "9000/9000.sock",
		"exec x -p $PORT -q ${PORT}1":  "exec x -p 9000 -q 90001",
		"$PORTABLE $PORT_A $PORT1":     "$PORTABLE $PORT_A $PORT1",
		"${PORTABLE} ${PORT:-1} $port": "${PORTABLE} ${PORT:-1} $port",
		"PORT":                         "PORT",
	} {
		if got := withPort(argument, "9000"); got != want {
			t.Errorf("%q becomes %q, not %q", argument, got, want)
		}
	}
}

func TestDescribe(t *testing.T) {
	const coreDumped = 0x80
	for status, want := range map[syscall.WaitStatus]string{
		0:                                   "exited with status 0",
		3 << 8:                              "exit status 3",
		255 << 8:                            "exit status 255",
		syscall.WaitStatus(syscall.SIGKILL): "signal: killed",
		coreDumped | syscall.WaitStatus(syscall.SIGSEGV): "signal: segmentation fault (core dumped)",
	} {
		if got := describe(status); got != want {
			t.Errorf("%#x: %q, not %q", int(status), got, want)
		}
	}
}
