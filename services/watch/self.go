package watch

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime/debug"
	"strings"
)

// Self returns a watcher of the source of the running program, which must be in this folder or one above. It lacks Reload
// and Log. Its Build makes binary, a file in dir with the program's name, and has run once when Self returns; a ctx that
// ends cuts it short.
func Self(ctx context.Context, dir string) (w *Watcher, binary string, err error) {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return nil, "", errors.New("this binary does not say what it was built from")
	}
	root, err := moduleRoot(info.Main.Path)
	if err != nil {
		return nil, "", err
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, "", err
	}
	binary = filepath.Join(dir, filepath.Base(info.Path))
	build := func(ctx context.Context) error {
		complete := binary + ".new" // a build that is cut short never takes the place of a complete one
		cmd := exec.CommandContext(ctx, "go", "build", "-o", complete, info.Path)
		cmd.Dir = root
		if output, err := cmd.CombinedOutput(); err != nil {
			return fmt.Errorf("go build: %w", cmp.Or(compilerErrors(output), err))
		}
		return os.Rename(complete, binary)
	}
	return &Watcher{Root: root, Defaults: GoSource, Build: build}, binary, build(ctx)
}

// compilerErrors are the lines that go build printed, without those that only name a package: the first line of an error
// is shown alone where there is room for no more. It returns nil when there are none.
func compilerErrors(output []byte) error {
	var b strings.Builder
	for line := range strings.Lines(string(output)) {
		if !strings.HasPrefix(line, "# ") {
			b.WriteString(line)
		}
	}
	if text := strings.TrimSpace(b.String()); text != "" {
		return errors.New(text)
	}
	return nil
}

// moduleRoot is the folder, this one or one above, that holds the module's go.mod. The binary does not know it: -trimpath
// removes it, and the source may have moved.
func moduleRoot(module string) (string, error) {
	dir, err := os.Getwd()
	if err != nil {
		return "", err
	}
	for start := dir; ; dir = filepath.Dir(dir) {
		content, err := os.ReadFile(filepath.Join(dir, "go.mod"))
		if err == nil && bytes.Contains(content, []byte("module "+module+"\n")) {
			return dir, nil
		}
		if dir == filepath.Dir(dir) {
			return "", fmt.Errorf("neither %s nor a folder above it holds this program's source (go.mod of %s)", start, module)
		}
	}
}
