package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"hash/fnv"
	"io/fs"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"runtime/debug"
	"strings"
	"syscall"
	"time"

	"github.com/fsnotify/fsnotify"
)

// watcher rebuilds the program when its source changes and then has every process replaced. What it compares is the
// state of the source, not the events: so one rebuild answers a checkout of many files, a change during a build or a
// reload is found after it, and a file written again as it was is no change.
type watcher struct {
	root   string            // what is watched
	source func(string) bool // whether a file's name is one of source
	build  func() error      // makes the new code; its error holds what the compiler said
	reload func() error      // brings it into every process
	poll   time.Duration     // how often to look without the help of the kernel; 0: have its help
	log    *slog.Logger
}

const (
	// quiet is how long nothing must have changed before a build: an editor's save is several events, a checkout many.
	quiet = 200 * time.Millisecond
	// standardPoll is for when the kernel has no watches to give.
	standardPoll = time.Second
)

// run watches until ctx ends.
func (w *watcher) run(ctx context.Context) {
	events, err := w.listen(ctx)
	if err != nil {
		w.log.Warn("watching by looking every second: the kernel gives no watches", "cause", err)
	}
	if events == nil {
		poll := w.poll
		if poll <= 0 {
			poll = standardPoll
		}
		events = ticks(ctx, poll)
	}
	w.log.Info("watching", "folder", w.root)
	known := w.state()
	for {
		select {
		case <-ctx.Done():
			return
		case <-events:
		}
		now := w.settled(ctx)
		if now == known {
			continue
		}
		known = now
		began := time.Now()
		if err := w.build(); err != nil {
			w.log.Error("the change does not build; the code that runs stays", "cause", err)
			continue
		}
		w.log.Info("built", "in", time.Since(began).Round(time.Millisecond).String())
		if err := w.reload(); err != nil {
			w.log.Error("reload failed; the code that runs stays", "cause", err)
		}
		if w.state() != known { // changed meanwhile
			select {
			case events <- struct{}{}:
			default:
			}
		}
	}
}

// settled returns the state of the source once it has stopped changing.
func (w *watcher) settled(ctx context.Context) uint64 {
	for before := w.state(); ; {
		select {
		case <-ctx.Done():
			return before
		case <-time.After(quiet):
		}
		now := w.state()
		if now == before {
			return now
		}
		before = now
	}
}

// state is a number that differs when any source file differs in name, size or time.
func (w *watcher) state() uint64 {
	h := fnv.New64a()
	w.walk(func(path string, d fs.DirEntry) {
		if d.IsDir() || !w.source(d.Name()) {
			return
		}
		if info, err := d.Info(); err == nil {
			fmt.Fprintln(h, path, info.Size(), info.ModTime().UnixNano())
		}
	})
	return h.Sum64()
}

// walk visits what may hold source: no hidden folders, no packages of others, no data, no logs.
func (w *watcher) walk(visit func(path string, d fs.DirEntry)) {
	_ = filepath.WalkDir(w.root, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return nil // gone meanwhile
		}
		if d.IsDir() && path != w.root {
			switch name := d.Name(); {
			case strings.HasPrefix(name, "."), name == "node_modules", name == "data", name == "logs", name == "testdata":
				return filepath.SkipDir
			}
		}
		visit(path, d)
		return nil
	})
}

// listen asks the kernel to tell of changes. It returns nil and no error when polling is asked for.
func (w *watcher) listen(ctx context.Context) (chan struct{}, error) {
	if w.poll > 0 {
		return nil, nil
	}
	n, err := fsnotify.NewWatcher()
	if err != nil {
		return nil, err
	}
	add := func() (err error) {
		w.walk(func(path string, d fs.DirEntry) {
			if e := n.Add(path); d.IsDir() && e != nil && !errors.Is(e, fs.ErrNotExist) && err == nil {
				err = fmt.Errorf("%s: %w", path, e)
				if errors.Is(e, syscall.ENOSPC) {
					err = fmt.Errorf("%w (sysctl fs.inotify.max_user_watches)", err)
				}
			}
		})
		return err
	}
	if err := add(); err != nil {
		n.Close()
		return nil, err
	}
	changed := make(chan struct{}, 1)
	tell := func() {
		select {
		case changed <- struct{}{}:
		default:
		}
	}
	go func() {
		defer n.Close()
		for {
			select {
			case <-ctx.Done():
				return
			case e := <-n.Events:
				if info, err := os.Stat(e.Name); e.Has(fsnotify.Create) && err == nil && info.IsDir() {
					if err := add(); err != nil {
						w.log.Warn("a new folder is not watched", "cause", err)
					}
					tell()
				} else if w.source(filepath.Base(e.Name)) {
					tell()
				}
			case err := <-n.Errors: // an overflow of its queue, mostly: look
				w.log.Debug("watch", "cause", err)
				tell()
			}
		}
	}()
	return changed, nil
}

func ticks(ctx context.Context, every time.Duration) chan struct{} {
	c := make(chan struct{}, 1)
	go func() {
		t := time.NewTicker(every)
		defer t.Stop()
		for {
			select {
			case <-ctx.Done():
				return
			case <-t.C:
				select {
				case c <- struct{}{}:
				default:
				}
			}
		}
	}()
	return c
}

// goSource tells the files that this program is built from: Go, and what it embeds.
func goSource(name string) bool {
	if strings.HasPrefix(name, ".") || strings.HasSuffix(name, "_test.go") {
		return false
	}
	switch filepath.Ext(name) {
	case ".go", ".mod", ".sum", ".html", ".css", ".js", ".json", ".svg", ".txt", ".ico":
		return true
	}
	return false
}

// anySource tells the files of a program that is not ours: all but what editors and logs leave.
func anySource(name string) bool {
	switch filepath.Ext(name) {
	case ".log", ".swp", ".swx", ".tmp", ".pid", ".sock", ".db", ".db-wal", ".db-shm":
		return false
	}
	return !strings.HasPrefix(name, ".") && !strings.HasPrefix(name, "#") && !strings.HasSuffix(name, "~") && name != "4913"
}

// watchSelf returns a watcher of this program's source and the path of the binary that it builds, which it has built
// once when it returns. All processes run that binary from then on.
func (p *program) watchSelf(name string, log *slog.Logger, reload func() error) (*watcher, string, error) {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return nil, "", errors.New("--watch: this binary does not say what it was built from")
	}
	root, err := moduleRoot(info.Main.Path)
	if err != nil {
		return nil, "", err
	}
	dir := filepath.Join(p.settings.Home, "watch", name)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, "", err
	}
	binary := filepath.Join(dir, "balanza")
	build := func() error {
		fresh := binary + ".new" // a binary that does not come to an end never takes the place of one that did
		cmd := exec.Command("go", "build", "-o", fresh, info.Path)
		cmd.Dir = root
		if said, err := cmd.CombinedOutput(); err != nil {
			return fmt.Errorf("%w: %s", err, bytes.TrimSpace(said))
		}
		return os.Rename(fresh, binary)
	}
	if err := build(); err != nil {
		return nil, "", fmt.Errorf("--watch: %w", err)
	}
	return &watcher{root: root, source: goSource, build: build, reload: reload, poll: time.Duration(p.settings.WatchPoll), log: log}, binary, nil
}

// moduleRoot is the folder, this one or one above, that holds the module's go.mod.
func moduleRoot(module string) (string, error) {
	dir, err := os.Getwd()
	if err != nil {
		return "", err
	}
	for start := dir; ; dir = filepath.Dir(dir) {
		text, err := os.ReadFile(filepath.Join(dir, "go.mod"))
		if err == nil && bytes.Contains(text, []byte("module "+module+"\n")) {
			return dir, nil
		}
		if dir == filepath.Dir(dir) {
			return "", fmt.Errorf("--watch: neither %s nor a folder above it holds this program's source (go.mod of %s)", start, module)
		}
	}
}
