package provision

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// write makes a file, and its folder, that only their owner can read.
func write(t *testing.T, content string, parts ...string) {
	t.Helper()
	path := filepath.Join(parts...)
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
}

// tree returns the files of a folder with their contents, and checks that everybody can read them.
func tree(t *testing.T, dir string) map[string]string {
	t.Helper()
	files := map[string]string{}
	if err := filepath.Walk(dir, func(path string, info os.FileInfo, err error) error {
		if err != nil {
			return err
		}
		want := os.FileMode(0o444)
		if info.IsDir() {
			want = 0o755
		} else {
			files[strings.TrimPrefix(path, dir+"/")] = read(t, path)
		}
		if info.Mode().Perm() != want {
			t.Errorf("%s has mode %v, want %v", path, info.Mode().Perm(), want)
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	return files
}

func checkTree(t *testing.T, dir string, want map[string]string) {
	t.Helper()
	got := tree(t, dir)
	for name, content := range want {
		if got[name] != content {
			t.Errorf("%s holds %q, want %q", name, got[name], content)
		}
	}
	if len(got) != len(want) {
		t.Errorf("copied %v, want %v", got, want)
	}
}

func TestRunCopiesFolders(t *testing.T) {
	dir, from := t.TempDir(), t.TempDir()
	to := filepath.Join(t.TempDir(), "volume")
	copies := []Copy{{from, to}}
	write(t, "one", from, "nginx.conf")
	write(t, "two", from, "sub", "two.conf")
	write(t, "secret", from, "certificates", "key.pem")
	write(t, "editor's", from, ".nginx.conf.swp")
	if err := os.Symlink("nginx.conf", filepath.Join(from, "link.conf")); err != nil {
		t.Fatal(err)
	}
	if err := Run(dir, copies, Settings{}); err != nil {
		t.Fatal(err)
	}
	checkTree(t, to, map[string]string{"nginx.conf": "one", "link.conf": "one", "sub/two.conf": "two"})

	// A file becomes a folder, a folder a file, one is gone and one is new.
	for _, name := range []string{"link.conf", "nginx.conf", "sub"} {
		if err := os.RemoveAll(filepath.Join(from, name)); err != nil {
			t.Fatal(err)
		}
	}
	write(t, "three", from, "nginx.conf", "three.conf")
	write(t, "four", from, "sub")
	if err := Run(dir, copies, Settings{}); err != nil {
		t.Fatal(err)
	}
	checkTree(t, to, map[string]string{"nginx.conf/three.conf": "three", "sub": "four"})
}

// A folder without files is one that is not there: Docker makes an empty one. Its volume stays as it is.
func TestRunCopiesNoEmptyFolder(t *testing.T) {
	dir, to := t.TempDir(), t.TempDir()
	write(t, "one", to, "nginx.conf")
	from := t.TempDir()
	if err := Run(dir, []Copy{{from, to}}, Settings{}); err == nil || !strings.Contains(err.Error(), from) {
		t.Errorf("an empty folder: error %v", err)
	}
	if read(t, to, "nginx.conf") != "one" {
		t.Error("the volume was emptied")
	}
	if err := os.Symlink("nowhere", filepath.Join(from, "dangling.conf")); err != nil {
		t.Fatal(err)
	}
	if err := Run(dir, []Copy{{from, to}}, Settings{}); err == nil || !strings.Contains(err.Error(), "dangling.conf") {
		t.Errorf("a link that leads nowhere: error %v", err)
	}
}

// Whatever nginx reads changes the version, and nothing else does.
func TestVersion(t *testing.T) {
	dir, from, to := t.TempDir(), t.TempDir(), t.TempDir()
	settings := Settings{Nginx: to}
	copies := []Copy{{from, to}}
	version := func() string {
		t.Helper()
		if err := Run(dir, copies, settings); err != nil {
			t.Fatal(err)
		}
		return read(t, dir, versionFile)
	}
	write(t, "one", from, "nginx.conf")
	first := version()
	if !strings.HasPrefix(first, "return 200 ") || !strings.HasSuffix(first, ";\n") {
		t.Fatalf("nginx can't include %q", first)
	}
	seen := map[string]string{first: "at first"}
	if again := version(); again != first {
		t.Errorf("without a change the version is %q, and was %q", again, first)
	}
	for what, change := range map[string]func(){
		"a changed file":  func() { write(t, "two", from, "nginx.conf") },
		"a new file":      func() { write(t, "", from, "empty.conf") },
		"a setting":       func() { settings.ForceHTTPS = true },
		"a limit":         func() { settings.Limits.Body, settings.Limits.URL = 1, 2 },
		"a certificate":   func() { _ = os.Remove(filepath.Join(dir, certificateFile)) },
		"a renamed file":  func() { _ = os.Rename(filepath.Join(from, "nginx.conf"), filepath.Join(from, "other.conf")) },
		"a file in a sub": func() { write(t, "two", from, "sub", "other.conf") },
	} {
		change()
		now := version()
		if before, ok := seen[now]; ok {
			t.Errorf("%s: the version is as %s", what, before)
		}
		seen[now] = "after " + what
	}
}
