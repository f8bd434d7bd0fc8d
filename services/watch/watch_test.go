package watch

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/fsnotify/fsnotify"
)

// source is a folder of source code with a watcher on it; it counts builds and reloads.
type source struct {
	dir             string
	builds, reloads atomic.Int32
	broken          atomic.Bool
	duringReload    func() // runs in the next reload
}

func watchFolder(t *testing.T, poll time.Duration) *source {
	t.Helper()
	w := &source{dir: t.TempDir()}
	w.write(t, "main.go", "package main")
	watcher := &Watcher{
		Root: w.dir, Defaults: GoSource, Poll: poll, Log: slog.New(slog.NewTextHandler(t.Output(), nil)),
		Build: func(context.Context) error {
			w.builds.Add(1)
			if w.broken.Load() {
				return errors.New("it does not compile")
			}
			return nil
		},
		Reload: func(context.Context) error {
			if f := w.duringReload; f != nil {
				w.duringReload = nil
				f()
			}
			w.reloads.Add(1)
			return nil
		},
	}
	done := make(chan struct{})
	go func() { defer close(done); watcher.Run(t.Context()) }()
	t.Cleanup(func() { <-done })
	time.Sleep(300 * time.Millisecond) // the first scan
	return w
}

func (w *source) write(t *testing.T, name, text string) {
	t.Helper()
	path := filepath.Join(w.dir, name)
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

// awaitIdle waits until no build has been started for a while.
func (w *source) awaitIdle() {
	for last := int32(-1); last != w.builds.Load(); time.Sleep(5 * debounce) {
		last = w.builds.Load()
	}
}

func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(30 * time.Second); !ok(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("not within 30 s: %s", what)
		}
	}
}

func (w *source) expect(t *testing.T, builds, reloads int32) {
	t.Helper()
	eventually(t, fmt.Sprintf("%d builds and %d reloads (so far %d, %d)", builds, reloads, w.builds.Load(), w.reloads.Load()), func() bool {
		return w.builds.Load() >= builds && w.reloads.Load() >= reloads
	})
	w.awaitIdle()
	if b, r := w.builds.Load(), w.reloads.Load(); b != builds || r != reloads {
		t.Errorf("%d builds and %d reloads, want %d and %d", b, r, builds, reloads)
	}
}

func TestWatchRebuildsOnceForOneChange(t *testing.T) {
	for name, poll := range map[string]time.Duration{"by the kernel": 0, "by polling": 50 * time.Millisecond} {
		t.Run(name, func(t *testing.T) {
			w := watchFolder(t, poll)
			// an editor's atomic save
			w.write(t, "main.go.new", "package main // 2")
			if err := os.Rename(filepath.Join(w.dir, "main.go.new"), filepath.Join(w.dir, "main.go")); err != nil {
				t.Fatal(err)
			}
			w.expect(t, 1, 1)
			// a checkout
			for i := range 200 {
				w.write(t, fmt.Sprintf("pkg%d/file%d.go", i%10, i), "package p")
			}
			w.expect(t, 2, 2)
			// in a folder that was not there at the start
			w.write(t, "pkg3/file3.go", "package p // changed")
			w.expect(t, 3, 3)
		})
	}
}

func TestWatchIgnoresWhatIsNoSource(t *testing.T) {
	w := watchFolder(t, 0)
	for _, name := range []string{
		"server.log", "data/balanza.db", "data/x.go", ".main.go.swp", "main.go~", "4913", ".git/HEAD", ".git/x.go",
		"node_modules/a/index.js", "main_test.go", "logs/x.json",
	} {
		w.write(t, name, "x")
	}
	w.write(t, "main.go", "package main") // the same again, with a new time
	w.expect(t, 1, 1)
	w.write(t, "other.log", "x")
	w.expect(t, 1, 1)
}

func TestWatchIgnoresATemporaryFile(t *testing.T) {
	w := watchFolder(t, 0)
	w.write(t, "temporary.go", "package main")
	time.Sleep(debounce / 2)
	if err := os.Remove(filepath.Join(w.dir, "temporary.go")); err != nil {
		t.Fatal(err)
	}
	time.Sleep(5 * debounce)
	w.write(t, "main.go", "package main // 2")
	w.expect(t, 1, 1)
}

func TestWatchKeepsTheOldCodeWhenTheBuildFails(t *testing.T) {
	w := watchFolder(t, 0)
	w.broken.Store(true)
	w.write(t, "main.go", "package broken(")
	w.expect(t, 1, 0)
	w.broken.Store(false)
	w.write(t, "main.go", "package main // mended")
	w.expect(t, 2, 1)
}

func TestWatchDoesNotLoseAChangeDuringAReload(t *testing.T) {
	w := watchFolder(t, 0)
	w.duringReload = func() {
		w.write(t, "main.go", "package main // changed meanwhile")
		time.Sleep(2 * debounce)
	}
	w.write(t, "main.go", "package main // first change")
	w.expect(t, 2, 2)
}

// The kernel limits the number of watches, and a folder's watch reports its files too.
func TestWatchAddsFoldersOnly(t *testing.T) {
	dir := t.TempDir()
	for i := range 100 {
		name := filepath.Join(dir, fmt.Sprintf("pkg%d", i%2), fmt.Sprintf("file%d.go", i))
		if err := os.MkdirAll(filepath.Dir(name), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(name, []byte("package p"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	n, err := fsnotify.NewWatcher()
	if err != nil {
		t.Fatal(err)
	}
	defer n.Close()
	if _, err := (&scanner{root: dir, kernel: n}).scan(); err != nil {
		t.Fatal(err)
	}
	if watched := n.WatchList(); len(watched) != 3 {
		t.Errorf("%d watches for 3 folders: %v", len(watched), watched)
	}
}

func TestSelfFindsItsSource(t *testing.T) {
	t.Chdir(t.TempDir())
	if _, _, err := Self(t.Context(), t.TempDir()); err == nil || !strings.Contains(err.Error(), "source") {
		t.Errorf("outside of the module: %v", err)
	}
}
