package e2e

import (
	"bytes"
	"fmt"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"balanza/e2e/testenv"
)

// TestWindowsCheckout clones as git on Windows does, with core.autocrlf: each file is as it is in the repository, since
// Linux containers read scripts and configurations from the checkout.
func TestWindowsCheckout(t *testing.T) {
	dir := t.TempDir()
	clone := func(name, autocrlf string) string {
		to := filepath.Join(dir, name)
		if out, err := exec.Command("git", "clone", "--quiet", "--config", "core.autocrlf="+autocrlf, "..", to).CombinedOutput(); err != nil {
			testenv.SkipOrFail(t, fmt.Errorf("git clone: %w: %s", err, out))
		}
		return to
	}
	windows, linux := clone("windows", "true"), clone("linux", "false")
	out, err := exec.Command("git", "-C", linux, "ls-files", "-z").Output()
	if err != nil {
		t.Fatal(err)
	}
	var changed []string
	for name := range strings.SplitSeq(strings.TrimRight(string(out), "\x00"), "\x00") {
		content := readFile(t, filepath.Join(windows, name))
		if !bytes.Equal(content, readFile(t, filepath.Join(linux, name))) {
			changed = append(changed, name)
		}
		if strings.HasSuffix(name, ".sh") && bytes.Contains(content, []byte("\r")) {
			t.Errorf("%s has Windows line ends in the repository", name)
		}
	}
	if len(changed) > 0 {
		t.Errorf("%d files are others in a checkout on Windows: %s", len(changed), tail(strings.Join(changed, " "), 500))
	}
	if out, err := exec.Command("sh", "-n", filepath.Join(windows, "services", "update.sh")).CombinedOutput(); err != nil {
		t.Errorf("update.sh: %v %s", err, out)
	}
}
