// Package testenv is what tests ask of their environment: how thorough the run is (BALANZA_TEST_ALL), and a free port.
package testenv

import (
	"math/rand/v2"
	"net"
	"os"
	"strconv"
	"sync"
	"testing"
)

// All reports whether BALANZA_TEST_ALL is 1: tests then make as many kills and reloads as CI does, and need every tool. It
// reads the variable at each call, because go test's cache overlooks variables that are read before TestMain.
func All() bool { return os.Getenv("BALANZA_TEST_ALL") == "1" }

// SkipOrFail skips a test that lacks a tool, with the cause. When All reports true, the test fails instead.
func SkipOrFail(t testing.TB, cause error) {
	t.Helper()
	if All() {
		t.Fatalf("the test needs a tool: %v", cause)
	}
	t.Skipf("the test needs a tool: %v", cause)
}

// Ports of FreePort are below those that the kernel gives to outgoing connections, of which tests that run at the same time
// make many: one of these could have the port before the test listens on it.
const lowestPort, portCount = 2000, 8000

// givenPorts are those that FreePort has returned in this process.
var givenPorts sync.Map

// FreePort returns a port of 127.0.0.1 on which nothing listens, another one at each call. Another process may listen on it
// before the test does.
func FreePort(t testing.TB) string {
	t.Helper()
	var last error
	for range 1000 {
		port := strconv.Itoa(lowestPort + rand.N(portCount))
		ln, err := net.Listen("tcp", "127.0.0.1:"+port)
		if err != nil {
			last = err
			continue
		}
		ln.Close()
		if _, given := givenPorts.LoadOrStore(port, true); !given {
			return port
		}
	}
	t.Fatalf("no free port: %v", last)
	return ""
}
