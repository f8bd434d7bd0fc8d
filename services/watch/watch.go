// Package watch rebuilds a program and reloads its processes when a source file changes. It compares the state of the
// source instead of counting events: one build answers a checkout of many files, a change during a build or a reload is
// found after it, and a file that is written again as it was is no change.
package watch

import (
	"cmp"
	"context"
	"fmt"
	"log/slog"
	"maps"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/fsnotify/fsnotify"
)

const (
	// debounce is how long nothing must have changed before a build: an editor's save is several events, a checkout many.
	debounce = 200 * time.Millisecond
	// maxDebounce bounds that time where files change all the time.
	maxDebounce = 10 * time.Second
	// DefaultPoll is the interval between two scans where the kernel reports no changes.
	DefaultPoll = time.Second
)

// Watcher watches one folder and everything below it, also behind symbolic links.
type Watcher struct {
	Root     string   // folder to watch; the path is looked up anew when it leads elsewhere, as a symbolic link may
	Defaults []string // patterns of gitignore(5) that the repository's own precede: GoSource, AnySource
	Ignore   []string // patterns that precede the repository's
	Exclude  string   // a folder that is not watched, for the watching program's own files; empty: none

	Build   func(context.Context) error // makes the new code; its error holds the compiler's output; nil: nothing is built
	Reload  func(context.Context) error // starts the new code in every process
	Started func() time.Time            // when the last of the processes was started; nil: only Reload starts any

	Poll time.Duration // interval between two scans; 0: inotify or the system's like reports changes
	Log  *slog.Logger
}

// Run watches until ctx ends. A build or a reload that fails is logged, and the running code stays. Where the kernel has
// no watches left, which other programs may have used up, it polls; while the root can't be read, it waits for it. Files
// that git ignores are ignored, and so are those that the program is found to write itself.
func (w *Watcher) Run(ctx context.Context) {
	s := &scanner{root: w.Root, defaults: w.Defaults, ignore: w.Ignore, excludes: userExcludes(w.Root), log: w.Log}
	if real, err := filepath.EvalSymlinks(w.Exclude); err == nil {
		s.exclude = real
	}
	if w.Poll == 0 {
		var err error
		if s.kernel, err = fsnotify.NewWatcher(); err != nil {
			s.kernel = nil
			s.poll(err)
		}
	}
	defer s.close()
	w.Log.Info("watching", "folder", w.Root)
	r := run{Watcher: w, scanner: s, own: newOwnWrites(time.Now())}
	r.changes()
	ticker := time.NewTicker(cmp.Or(w.Poll, DefaultPoll))
	defer ticker.Stop()
	for {
		if !s.repeat && !r.await(ctx, ticker.C) {
			return
		}
		// After a reload the kernel's events of changes during it may have been answered by the scan before it.
		for files := r.collect(ctx); len(files) > 0 && ctx.Err() == nil; files = r.collect(ctx) {
			r.apply(ctx, files)
		}
		if !pause(ctx, debounce) { // a file that changes all the time, and is ignored, is reason for few scans
			return
		}
	}
}

// pause waits and reports whether ctx goes on.
func pause(ctx context.Context, d time.Duration) bool {
	select {
	case <-ctx.Done():
		return false
	case <-time.After(d):
		return true
	}
}

// run is the state of a watcher while it runs.
type run struct {
	*Watcher
	*scanner
	known    snapshot  // of the last scan; nil: none yet
	scanned  time.Time // the time of the last scan
	previous time.Time // the time of the scan before it
	own      *ownWrites
	missing  bool // the root could not be read in the last scan
}

// await waits until something may have changed and reports whether ctx goes on.
func (r *run) await(ctx context.Context, tick <-chan time.Time) bool {
	for {
		var events <-chan fsnotify.Event
		var failures <-chan error
		if r.kernel != nil {
			events, failures = r.kernel.Events, r.kernel.Errors
		}
		select {
		case <-ctx.Done():
			return false
		case e := <-events:
			if r.concerns(e.Name) {
				return true
			}
		case err := <-failures: // mostly an overflow of the event queue, so a scan is due
			r.Log.Debug("watch", "cause", err)
			return true
		case <-tick:
			if r.kernel == nil || r.missing || r.moved() {
				return true
			}
		}
	}
}

// change is a file that was created, changed or removed. Its name for ownWrites is its folder's unless it was changed: a
// program may give each file a new name.
type change struct{ path, name string }

// changes compares the files with those of the last scan. While the root can't be read there are none.
func (r *run) changes() (found []change) {
	now, err := r.scan()
	if err != nil {
		if !r.missing {
			r.Log.Error("the folder can't be watched; it is tried again", "folder", r.Root, "cause", err)
		}
		r.missing = true
		return nil
	}
	if r.missing {
		r.Log.Info("watching again", "folder", r.Root)
	}
	before := r.known
	r.known, r.missing, r.previous, r.scanned = now, false, r.scanned, time.Now()
	if before == nil {
		return nil
	}
	for file, info := range now {
		if old, ok := before[file]; !ok {
			found = append(found, change{file, path.Dir(file) + "/"})
		} else if !unchanged(old, info) {
			found = append(found, change{file, file})
		}
	}
	for file := range before {
		if _, ok := now[file]; !ok {
			found = append(found, change{file, path.Dir(file) + "/"})
		}
	}
	return found
}

// collect returns the files that have changed, once they stay as they are. A build of half a checkout would fail, and its
// error would hide the next one.
func (r *run) collect(ctx context.Context) []string {
	before := r.known
	changed := map[string]string{} // path → name
	began, last, wait := time.Now(), time.Now(), debounce
	for {
		found := r.changes()
		if r.Started != nil && len(found) > 0 {
			if t := r.Started(); t.After(r.own.started) { // by a crash, an order, or first of all
				r.own.restarted(t)
			}
		}
		for name, files := range r.ofOthers(found) {
			own, recognised, longer := r.own.change(name, r.timeOf(files))
			if recognised {
				r.logOwn(files)
				maps.DeleteFunc(changed, func(_, n string) bool { return n == name })
			}
			if own {
				continue
			}
			for _, file := range files {
				changed[file] = name
			}
			last, wait = time.Now(), max(wait, longer)
		}
		if len(changed) == 0 || time.Since(last) >= wait || time.Since(began) > maxDebounce {
			maps.DeleteFunc(changed, func(file, _ string) bool { // temporary files
				return before[file] == nil && r.known[file] == nil
			})
			return slices.Sorted(maps.Keys(changed))
		}
		if !pause(ctx, debounce) {
			return nil
		}
	}
}

// ofOthers groups changes by their names for ownWrites, without those of files that the program has open for writing.
func (r *run) ofOthers(found []change) map[string][]string {
	groups := map[string][]string{}
	var open map[fileID]bool
	if len(found) > 0 {
		open = openForWriting()
	}
	for _, c := range found {
		if info := r.known[c.path]; len(open) > 0 && info != nil && open[idOf(info)] {
			if !r.own.open[c.path] {
				r.own.open[c.path] = true
				r.logOwn([]string{c.path})
			}
			continue
		}
		groups[c.name] = append(groups[c.name], c.path)
	}
	return groups
}

// timeOf is when the last of these files was written, as far as its time can be that: a copy may have the original's.
func (r *run) timeOf(files []string) time.Time {
	last := r.previous
	for _, file := range files {
		if info := r.known[file]; info != nil && info.ModTime().After(last) {
			last = info.ModTime()
		}
	}
	if last.Equal(r.previous) || last.After(r.scanned) {
		return r.scanned
	}
	return last
}

func (r *run) logOwn(files []string) {
	r.Log.Warn("the program writes this itself, so it is not reloaded for it", "files", shortList(files),
		"hint", "--watch-ignore PATTERN ignores files from the start")
}

// apply builds and reloads.
func (r *run) apply(ctx context.Context, files []string) {
	r.Log.Info("files changed", "files", shortList(files))
	if r.Build != nil {
		began := time.Now()
		if err := r.Build(ctx); err != nil {
			if ctx.Err() == nil {
				r.Log.Error("build failed; the running code stays", "cause", err)
			}
			return
		}
		r.Log.Info("built", "in", time.Since(began).Round(time.Millisecond).String())
	}
	began := time.Now()
	if err := r.Reload(ctx); err != nil && ctx.Err() == nil {
		r.Log.Error("reload failed; the running code stays", "cause", err)
	}
	if r.Started != nil {
		if t := r.Started(); t.After(began) { // one of several processes was started last
			began = t
		}
	}
	r.own.restarted(began)
}

// shortList names the first files of many.
func shortList(files []string) string {
	slices.Sort(files)
	if n := len(files); n > 3 {
		return fmt.Sprintf("%s and %d more", strings.Join(files[:3], ", "), n-3)
	}
	return strings.Join(files, ", ")
}
