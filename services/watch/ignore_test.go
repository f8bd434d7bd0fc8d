package watch

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// gitIgnored is what git ignores of the paths below dir.
func gitIgnored(t *testing.T, dir string, paths []string) map[string]bool {
	t.Helper()
	cmd := exec.Command("git", "-c", "core.excludesFile=", "check-ignore", "--stdin", "-z", "--no-index")
	cmd.Dir = dir
	cmd.Stdin = strings.NewReader(strings.Join(paths, "\x00") + "\x00")
	output, err := cmd.Output()
	if err != nil && cmd.ProcessState.ExitCode() != 1 { // 1: nothing is ignored
		t.Fatal(err)
	}
	ignored := map[string]bool{}
	for name := range bytes.SplitSeq(output, []byte{0}) {
		ignored[string(name)] = true
	}
	return ignored
}

func initRepository(t *testing.T, dir string) {
	t.Helper()
	if output, err := exec.Command("git", "init", "-q", dir).CombinedOutput(); err != nil {
		t.Skipf("git: %v: %s", err, output)
	}
}

// scanned lists what a scan finds below root.
func scanned(t *testing.T, root string, ignore ...string) []string {
	t.Helper()
	s := scanner{root: root, ignore: ignore}
	files, err := s.scan()
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for name := range files {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}

// The names and patterns are few and alike, so that many of the random combinations match. Stars after letters are left
// out: git before 2.52 reads a**/b as a/**/b.
func TestTheSameFilesAreIgnoredAsByGit(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	names := []string{"a", "b", "ab", "a.log", "b.log", "a[1]", "b c", "{a}"}
	elements := append([]string{"*", "**", "?", "a*", "*.log", "[ab]", "[!a]", "*b", "b\\ c", "a\\[1]", "a[[]1]", "{a}", "{a,b}", "[[:alpha:]]"}, names...)
	pick := func(from []string) string { return from[random.IntN(len(from))] }
	pattern := func() string {
		p := pick(elements)
		for range random.IntN(3) {
			p += "/" + pick(elements)
		}
		for _, end := range []struct {
			text   string
			before bool
			chance int
		}{{"/", true, 4}, {"!", true, 3}, {"/", false, 3}, {" ", false, 9}, {"\r", false, 9}} {
			switch {
			case random.IntN(end.chance) > 0:
			case end.before:
				p = end.text + p
			default:
				p += end.text
			}
		}
		return p
	}
	for range 100 {
		dir := t.TempDir()
		initRepository(t, dir)
		folders := []string{""}
		var paths []string
		for range 30 {
			folder := pick(folders)
			path := filepath.Join(folder, pick(names))
			if _, err := os.Lstat(filepath.Join(dir, path)); err == nil {
				continue
			}
			if strings.Count(path, "/") < 3 && random.IntN(2) == 0 {
				folders = append(folders, path)
				if err := os.Mkdir(filepath.Join(dir, path), 0o700); err != nil {
					t.Fatal(err)
				}
			} else if err := os.WriteFile(filepath.Join(dir, path), nil, 0o600); err != nil {
				t.Fatal(err)
			} else {
				paths = append(paths, path)
			}
		}
		ignoreFiles := map[string]string{".gitignore": "", ".git/info/exclude": "", filepath.Join(pick(folders), ".gitignore"): ""}
		for file := range ignoreFiles {
			for range random.IntN(4) {
				ignoreFiles[file] += pattern() + "\n"
			}
			if err := os.WriteFile(filepath.Join(dir, file), []byte(ignoreFiles[file]), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		ignored := gitIgnored(t, dir, paths)
		var want []string
		for _, path := range paths {
			if !ignored[path] {
				want = append(want, path)
			}
		}
		got := slices.DeleteFunc(scanned(t, dir), func(name string) bool { return filepath.Base(name) == ".gitignore" })
		if slices.Sort(want); !slices.Equal(got, want) {
			t.Errorf("patterns %q: watched %q, git has %q", ignoreFiles, got, want)
		}
	}
}

func TestPatternsOfTheCommandLine(t *testing.T) {
	dir := t.TempDir()
	for _, name := range []string{"a.js", "b.txt", "dist/a.js", "lib/dist/b.js", ".gitignore"} {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte("*.txt\n"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for patterns, want := range map[string]string{
		"":             "[.gitignore a.js dist/a.js lib/dist/b.js]",
		"dist/":        "[.gitignore a.js]",
		"/dist":        "[.gitignore a.js lib/dist/b.js]",
		"lib/**":       "[.gitignore a.js dist/a.js]",
		"!b.txt .g*":   "[a.js b.txt dist/a.js lib/dist/b.js]",
		"*.js !/a.js":  "[.gitignore a.js]",
		"**/dist/*.js": "[.gitignore a.js]",
	} {
		if got := fmt.Sprint(scanned(t, dir, strings.Fields(patterns)...)); got != want {
			t.Errorf("%q: %s, want %s", patterns, got, want)
		}
	}
	for _, bad := range []string{"", "/", "#x", "[a", "a\\"} {
		if err := CheckPattern(bad); err == nil {
			t.Errorf("%q: no error", bad)
		}
	}
}

func TestARootBelowTheTopOfItsRepository(t *testing.T) {
	dir := t.TempDir()
	write := func(name, content string) {
		t.Helper()
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	git := func(args ...string) {
		t.Helper()
		cmd := exec.Command("git", append([]string{"-C", dir, "-c", "user.name=a", "-c", "user.email=a@example.com"}, args...)...)
		if output, err := cmd.CombinedOutput(); err != nil {
			t.Skipf("git: %v: %s", err, output)
		}
	}
	git("init", "-q")
	write("app/a.js", "")
	git("add", ".")
	git("commit", "-q", "-m", "a")
	git("worktree", "add", "-q", "tree")
	write(".gitignore", "*.out\n/app/made/\n/whole/\n/tree/\n")
	write(".git/info/exclude", "private.js\n")
	for _, root := range []string{"app", "whole/project", "tree"} {
		for _, name := range []string{"a.js", "b.out", "made/c.js", "private.js"} {
			write(filepath.Join(root, name), "")
		}
	}
	for root, want := range map[string]string{
		"app":           "[a.js]",
		"whole/project": "[a.js b.out made/c.js private.js]", // of a repository that ignores all of it
		"tree":          "[a.js app/a.js b.out made/c.js]",   // a worktree has a .gitignore of its own, and the repository's exclude
	} {
		if got := fmt.Sprint(scanned(t, filepath.Join(dir, root))); got != want {
			t.Errorf("%s: %s, want %s", root, got, want)
		}
	}
}

func TestEachFolderIsVisitedOnceAndNoneThatHoldsTheRoot(t *testing.T) {
	dir := t.TempDir()
	for _, name := range []string{"root/src", "elsewhere/deep", "huge"} {
		if err := os.MkdirAll(filepath.Join(dir, name), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, name, "a.js"), nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for link, target := range map[string]string{
		"root/again": "src", "root/self": ".", "root/up": "..", "root/top": "/", "root/broken": "nowhere", "root/loop": "loop",
		"root/z-elsewhere": "../elsewhere", "elsewhere/back": "../root/src", "elsewhere/deep/circle": "..", "root/y-deep": "../elsewhere/deep",
		"root/file.js": "../huge/a.js",
	} {
		if err := os.Symlink(target, filepath.Join(dir, link)); err != nil {
			t.Fatal(err)
		}
	}
	if got, want := fmt.Sprint(scanned(t, filepath.Join(dir, "root"))), "[file.js src/a.js y-deep/a.js]"; got != want {
		t.Errorf("%s, want %s", got, want)
	}
}
