// Package testenv is what tests ask of their environment: how thorough the run is (BALANZA_TEST_ALL), and a free port.
package testenv

import (
	"net"
	"os"
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

// FreePort returns a port of 127.0.0.1 on which nothing listens. Another process may take it before the test does.
func FreePort(t testing.TB) string {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	_, port, err := net.SplitHostPort(ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	return port
}
