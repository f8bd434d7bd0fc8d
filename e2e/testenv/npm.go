package testenv

import (
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"testing"
)

// InstallNPM copies files, with package.json and package-lock.json, into a folder that ends with the test, and installs the
// npm packages of the lock file there. It returns the folder. Without Node, npm or a registry the test is skipped, or fails,
// as SkipOrFail does.
func InstallNPM(t testing.TB, files fs.FS) string {
	t.Helper()
	dir := t.TempDir()
	if err := os.CopyFS(dir, files); err != nil {
		t.Fatal(err)
	}
	_, noNode := exec.LookPath("node")
	_, noNPM := exec.LookPath("npm")
	if err := errors.Join(noNode, noNPM); err != nil {
		SkipOrFail(t, err)
	}
	cmd := exec.CommandContext(t.Context(), "npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund", "--prefer-offline",
		"--fetch-retries=0")
	cmd.Dir = dir
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Logf("npm ci: %s", out)
		SkipOrFail(t, err)
	}
	return dir
}
