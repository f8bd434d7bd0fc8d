package main

import (
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"
)

// watched is a folder of source with a watcher on it that counts what it does.
type watched struct {
	dir             string
	builds, reloads atomic.Int32
	broken          atomic.Bool
	during          func() // runs in the next reload
}

func startWatch(t *testing.T, poll time.Duration) *watched {
	t.Helper()
	w := &watched{dir: t.TempDir()}
	w.write(t, "main.go", "package main")
	watcher := &watcher{
		root: w.dir, source: goSource, poll: poll, log: slog.New(slog.NewTextHandler(t.Output(), nil)),
		build: func() error {
			w.builds.Add(1)
			if w.broken.Load() {
				return errors.New("it does not compile")
			}
			return nil
		},
		reload: func() error {
			if f := w.during; f != nil {
				w.during = nil
				f()
			}
			w.reloads.Add(1)
			return nil
		},
	}
	done := make(chan struct{})
	go func() { defer close(done); watcher.run(t.Context()) }()
	t.Cleanup(func() { <-done })
	time.Sleep(300 * time.Millisecond) // the first look
	return w
}

func (w *watched) write(t *testing.T, name, text string) {
	t.Helper()
	path := filepath.Join(w.dir, name)
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

// rest waits until nothing has happened for a while.
func (w *watched) rest() {
	for last := int32(-1); last != w.builds.Load(); time.Sleep(5 * quiet) {
		last = w.builds.Load()
	}
}

func (w *watched) expect(t *testing.T, builds, reloads int32) {
	t.Helper()
	within(t, fmt.Sprintf("%d builds and %d reloads (so far %d, %d)", builds, reloads, w.builds.Load(), w.reloads.Load()), func() bool {
		return w.builds.Load() >= builds && w.reloads.Load() >= reloads
	})
	w.rest()
	if b, r := w.builds.Load(), w.reloads.Load(); b != builds || r != reloads {
		t.Errorf("%d builds and %d reloads, want %d and %d", b, r, builds, reloads)
	}
}

func TestWatchRebuildsOnceForOneChange(t *testing.T) {
	for name, poll := range map[string]time.Duration{"by the kernel": 0, "by looking": 50 * time.Millisecond} {
		t.Run(name, func(t *testing.T) {
			w := startWatch(t, poll)
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
	w := startWatch(t, 0)
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

func TestWatchKeepsTheOldCodeWhenTheBuildFails(t *testing.T) {
	w := startWatch(t, 0)
	w.broken.Store(true)
	w.write(t, "main.go", "package broken(")
	w.expect(t, 1, 0)
	w.broken.Store(false)
	w.write(t, "main.go", "package main // mended")
	w.expect(t, 2, 1)
}

func TestWatchDoesNotLoseAChangeDuringAReload(t *testing.T) {
	w := startWatch(t, 0)
	w.during = func() {
		w.write(t, "main.go", "package main // changed meanwhile")
		time.Sleep(2 * quiet)
	}
	w.write(t, "main.go", "package main // first change")
	w.expect(t, 2, 2)
}
