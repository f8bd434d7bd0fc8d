// Package testenv tells tests how thorough a run is, by the environment variable BALANZA_TEST_ALL.
package testenv

import (
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
