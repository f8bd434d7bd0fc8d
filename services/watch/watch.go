// Package watch rebuilds a program and reloads its processes when a source file changes. It compares the state of the
// source instead of counting events: one build answers a checkout of many files, a change during a build or a reload is
// found after it, and a file that is written again as it was is no change.
package watch

import (
	"context"
	"errors"
	"fmt"
	"hash/fnv"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/fsnotify/fsnotify"
)

const (
	// debounce is how long nothing must have changed before a build: an editor's save is several events, a checkout many.
	debounce = 200 * time.Millisecond
	// DefaultPoll is the interval between two scans where the kernel reports no changes.
	DefaultPoll = time.Second
)

// Watcher watches one folder and everything below it. All fields but Poll are required.
type Watcher struct {
	Root   string                      // folder to watch
	Source func(name string) bool      // whether a file of that base name is source: GoSource, AnySource
	Build  func(context.Context) error // makes the new code; its error holds the compiler's output
	Reload func(context.Context) error // starts the new code in every process
	Poll   time.Duration               // interval between two scans; 0: inotify or the system's like reports changes
	Log    *slog.Logger
}

// Run watches until ctx ends. A build or a reload that fails is logged, and the running code stays. Where the kernel has
// no watches left, which other programs may have used up, it polls.
func (w *Watcher) Run(ctx context.Context) {
	changed, err := w.subscribe(ctx)
	if err != nil {
		w.Log.Warn("the kernel gives no watches; polling instead", "cause", err)
	}
	if changed == nil {
		interval := w.Poll
		if interval <= 0 {
			interval = DefaultPoll
		}
		changed = ticks(ctx, interval)
	}
	w.Log.Info("watching", "folder", w.Root)
	known := w.state()
	for {
		select {
		case <-ctx.Done():
			return
		case <-changed:
		}
		current := w.stableState(ctx)
		if current == known || ctx.Err() != nil {
			continue
		}
		known = current
		began := time.Now()
		if err := w.Build(ctx); err != nil {
			w.Log.Error("build failed; the running code stays", "cause", err)
			continue
		}
		w.Log.Info("built", "in", time.Since(began).Round(time.Millisecond).String())
		if err := w.Reload(ctx); err != nil {
			w.Log.Error("reload failed; the running code stays", "cause", err)
		}
		// The kernel's events of a change during the build may have been answered by the scan before it.
		if w.state() != known {
			notify(changed)
		}
	}
}

// notify leaves a token in a channel of capacity 1; a token that is already there is enough.
func notify(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// stableState returns the state of the source once it has stopped changing. A build of half a checkout would fail, and its
// error would hide the next one.
func (w *Watcher) stableState(ctx context.Context) uint64 {
	for before := w.state(); ; {
		select {
		case <-ctx.Done():
			return before
		case <-time.After(debounce):
		}
		current := w.state()
		if current == before {
			return current
		}
		before = current
	}
}

// state is a hash that differs when any source file differs in name, size or time.
func (w *Watcher) state() uint64 {
	// Names, sizes and times are enough: reading every file at each event would cost more than a needless build.
	h := fnv.New64a()
	w.walk(func(path string, d fs.DirEntry) {
		if d.IsDir() || !w.Source(d.Name()) {
			return
		}
		if info, err := d.Info(); err == nil {
			fmt.Fprintln(h, path, info.Size(), info.ModTime().UnixNano())
		}
	})
	return h.Sum64()
}

// walk visits all that may hold source: no hidden folders, no third-party packages, no data, no logs.
func (w *Watcher) walk(visit func(path string, d fs.DirEntry)) {
	_ = filepath.WalkDir(w.Root, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return nil // removed meanwhile
		}
		if d.IsDir() && path != w.Root {
			switch name := d.Name(); {
			case strings.HasPrefix(name, "."), name == "node_modules", name == "data", name == "logs", name == "testdata":
				return filepath.SkipDir
			}
		}
		visit(path, d)
		return nil
	})
}

// subscribe asks the kernel to report changes, which leave a token in the channel. It returns nil and no error when polling
// is asked for.
func (w *Watcher) subscribe(ctx context.Context) (chan struct{}, error) {
	if w.Poll > 0 {
		return nil, nil
	}
	n, err := fsnotify.NewWatcher()
	if err != nil {
		return nil, err
	}
	if err := w.addFolders(n); err != nil {
		n.Close()
		return nil, err
	}
	changed := make(chan struct{}, 1)
	go func() {
		defer n.Close()
		for {
			select {
			case <-ctx.Done():
				return
			case e := <-n.Events:
				if info, err := os.Stat(e.Name); e.Has(fsnotify.Create) && err == nil && info.IsDir() {
					if err := w.addFolders(n); err != nil {
						w.Log.Warn("a new folder is not watched", "cause", err)
					}
					notify(changed)
				} else if w.Source(filepath.Base(e.Name)) {
					notify(changed)
				}
			case err := <-n.Errors: // mostly an overflow of the event queue, so a scan is due
				w.Log.Debug("watch", "cause", err)
				notify(changed)
			}
		}
	}()
	return changed, nil
}

// addFolders watches every folder. A folder's watch reports its files too, and the kernel limits the number of watches.
// A folder that is watched already stays so, which makes this good for new folders as well.
func (w *Watcher) addFolders(n *fsnotify.Watcher) (err error) {
	w.walk(func(path string, d fs.DirEntry) {
		if err != nil || !d.IsDir() {
			return
		}
		switch e := n.Add(path); {
		case e == nil, errors.Is(e, fs.ErrNotExist):
		case errors.Is(e, syscall.ENOSPC):
			err = fmt.Errorf("%s: %w (sysctl fs.inotify.max_user_watches)", path, e)
		default:
			err = fmt.Errorf("%s: %w", path, e)
		}
	})
	return err
}

// ticks leaves a token at every interval until ctx ends.
func ticks(ctx context.Context, interval time.Duration) chan struct{} {
	c := make(chan struct{}, 1)
	go func() {
		for {
			select {
			case <-ctx.Done():
				return
			case <-time.After(interval):
				notify(c)
			}
		}
	}()
	return c
}

// GoSource reports whether a file belongs to a Go program: its code, or what it may embed. Tests do not: a save of one
// changes no process.
func GoSource(name string) bool {
	if strings.HasPrefix(name, ".") || strings.HasSuffix(name, "_test.go") {
		return false
	}
	switch filepath.Ext(name) {
	case ".go", ".mod", ".sum", ".html", ".css", ".js", ".json", ".svg", ".txt", ".tmpl", ".ico":
		return true
	}
	return false
}

// AnySource reports whether a file may belong to a program of any language: all but the files of editors, logs and
// databases, which a running program changes itself. 4913 is the file by which Vim tests whether a folder is writable.
func AnySource(name string) bool {
	switch filepath.Ext(name) {
	case ".log", ".swp", ".swx", ".tmp", ".pid", ".sock", ".db", ".db-wal", ".db-shm":
		return false
	}
	return !strings.HasPrefix(name, ".") && !strings.HasPrefix(name, "#") && !strings.HasSuffix(name, "~") && name != "4913"
}
