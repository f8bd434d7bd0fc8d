package watch

import (
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"github.com/fsnotify/fsnotify"
)

// snapshot is the state of the files that are watched, by their path below the root, with slashes. A file behind a
// symbolic link is the one that the link leads to.
type snapshot map[string]fs.FileInfo

// scanner finds the files to watch. Where the kernel reports changes, each scan also subscribes to the folders that it
// visits; a folder's watch reports its files too, and the kernel limits the number of watches.
type scanner struct {
	root     string
	defaults []string // patterns that the repository's precede
	ignore   []string // patterns that precede the repository's
	exclude  string   // a folder that is not visited; empty: none
	excludes string   // the user's own file of patterns for all repositories; empty: none
	log      *slog.Logger
	kernel   *fsnotify.Watcher // nil: it reports no changes

	// The fields below are of the last scan.
	files      snapshot
	prefix     string                 // the root's path below the top of its repository; empty or with a slash at its end
	rootInfo   fs.FileInfo            // of the folder that the root led to
	folders    map[string]folder      // visited, by path without symbolic links
	links      map[string]fs.FileInfo // files and folders behind symbolic links, by the link's path; nil: nothing is there
	explicit   rules                  // ignore, parsed
	pending    []link                 // links to folders that are yet to be visited
	failure    error                  // of the scan
	repeat     bool                   // the kernel may have missed changes during the scan
	unreadable map[string]bool        // folders that were reported as unreadable
}

// folder is one that was visited: its path below the root and the patterns that apply in it.
type folder struct {
	path  string
	rules rules
}

type link struct {
	real, path string
	rules      rules
}

// scan returns the files that are there now. It fails when the root, or what it leads to, can't be read.
func (s *scanner) scan() (snapshot, error) {
	real, err := filepath.EvalSymlinks(s.root)
	if err != nil {
		return nil, err
	}
	if s.rootInfo, err = os.Stat(real); err != nil {
		return nil, err
	}
	if !s.rootInfo.IsDir() {
		return nil, fmt.Errorf("%s is no folder", s.root)
	}
	s.files, s.folders, s.links = snapshot{}, map[string]folder{}, map[string]fs.FileInfo{}
	s.pending, s.failure, s.repeat = nil, nil, false
	rules := s.rootRules(real)
	s.explicit, _ = parseRules(strings.Join(s.ignore, "\n"), s.prefix)
	s.visit(real, "", rules)
	// Links are followed last, so that a file has its own path where it also has one through a link.
	for len(s.pending) > 0 && s.failure == nil {
		l := s.pending[0]
		s.pending = s.pending[1:]
		target, err := filepath.EvalSymlinks(l.real)
		if err != nil || within(real, target) { // the link leads out to a folder that holds the root
			continue
		}
		s.visit(target, l.path, l.rules)
	}
	if s.failure != nil {
		return nil, s.failure
	}
	s.unsubscribe()
	return s.files, nil
}

// within reports whether a path is a folder or below it.
func within(path, folder string) bool {
	rest, ok := strings.CutPrefix(path, strings.TrimSuffix(folder, string(filepath.Separator)))
	return ok && (rest == "" || rest[0] == filepath.Separator)
}

// visit reads a folder and those below it. real has no symbolic links in it. Each folder is visited once, whatever links
// lead to it, so that links in a circle end.
func (s *scanner) visit(real, path string, applying rules) {
	if _, done := s.folders[real]; done || s.failure != nil || path != "" && real == s.exclude {
		return
	}
	s.subscribe(real) // before the folder is read: a file that comes later is reported
	entries, err := os.ReadDir(real)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return // removed meanwhile
	case errors.Is(err, fs.ErrPermission):
		if !s.unreadable[real] && s.log != nil {
			s.log.Warn("a folder is not watched", "cause", err)
		}
		if s.unreadable == nil {
			s.unreadable = map[string]bool{}
		}
		s.unreadable[real] = true
		return
	case err != nil:
		s.failure = err
		return
	}
	if path != "" {
		path += "/"
	}
	if content, err := os.ReadFile(filepath.Join(real, ".gitignore")); err == nil {
		own, _ := parseRules(string(content), s.prefix+path)
		applying = append(slices.Clip(applying), own...)
	}
	s.folders[real] = folder{path, applying}
	for _, e := range entries {
		s.entry(filepath.Join(real, e.Name()), path+e.Name(), e, applying)
	}
}

// entry adds a file, visits a folder, or puts off a link to a folder.
func (s *scanner) entry(real, path string, e fs.DirEntry, applying rules) {
	isLink := e.Type()&fs.ModeSymlink != 0
	if e.Name() == ".git" || s.ignored(path, e.IsDir(), applying) && (!isLink || s.ignored(path, true, applying)) {
		return
	}
	var info fs.FileInfo // nil: nothing is there
	if isLink {
		info, _ = os.Stat(real)
		isFolder := info != nil && info.IsDir()
		if s.ignored(path, isFolder, applying) {
			return
		}
		s.links[real] = info
		if isFolder {
			s.pending = append(s.pending, link{real, path, applying})
		}
	} else if e.IsDir() {
		s.visit(real, path, applying)
	} else {
		info, _ = e.Info()
	}
	if info != nil && info.Mode().IsRegular() {
		s.files[path] = info
	}
}

// ignored reports whether the patterns exclude a path below the root.
func (s *scanner) ignored(path string, isFolder bool, applying rules) bool {
	ignored, matched := s.explicit.match(s.prefix+path, isFolder)
	if !matched {
		ignored, _ = applying.match(s.prefix+path, isFolder)
	}
	return ignored
}

// concerns reports whether an event of the kernel can be about a file that is watched, or a folder.
func (s *scanner) concerns(name string) bool {
	f, known := s.folders[filepath.Dir(name)]
	path := f.path + filepath.Base(name)
	return !known || !s.ignored(path, false, f.rules) || !s.ignored(path, true, f.rules)
}

// moved reports whether the root or a symbolic link leads elsewhere than at the last scan, or to a file that has changed.
// The kernel reports neither: a folder's watch stays with the folder, and a link's target may be anywhere.
func (s *scanner) moved() bool {
	if info, err := os.Stat(s.root); err != nil || s.rootInfo == nil || !os.SameFile(info, s.rootInfo) {
		return true
	}
	for path, before := range s.links {
		if info, _ := os.Stat(path); !sameTarget(before, info) {
			return true
		}
	}
	return false
}

// sameTarget compares what a link led to. A folder's own time and size change with its entries, which the kernel reports.
func sameTarget(before, now fs.FileInfo) bool {
	if before == nil || now == nil {
		return before == nil && now == nil
	}
	return before.IsDir() && os.SameFile(before, now) || unchanged(before, now)
}

// unchanged compares a file's names and times: reading every file at each event would cost more than a needless build.
func unchanged(before, now fs.FileInfo) bool {
	return before.Size() == now.Size() && before.ModTime().Equal(now.ModTime()) && os.SameFile(before, now)
}

// rootRules are the patterns that apply in the root: this package's defaults, and those of the repository whose top is the
// root or a folder above it.
func (s *scanner) rootRules(real string) rules {
	s.prefix = ""
	top := real
	for _, err := os.Lstat(filepath.Join(top, ".git")); err != nil; _, err = os.Lstat(filepath.Join(top, ".git")) {
		if top == filepath.Dir(top) { // there is no repository
			top = real
			break
		}
		top = filepath.Dir(top)
	}
	var r rules
	add := func(file, dir string) {
		if content, err := os.ReadFile(file); err == nil {
			own, _ := parseRules(string(content), dir)
			r = append(r, own...)
		}
	}
	add(s.excludes, "")
	add(filepath.Join(repository(filepath.Join(top, ".git")), "info", "exclude"), "")
	below, _ := filepath.Rel(top, real)
	dir := ""
	for _, element := range strings.Split(filepath.ToSlash(below), "/") {
		if element == "." {
			break
		}
		add(filepath.Join(top, dir, ".gitignore"), dir) // the root's own is read when it is visited
		dir += element + "/"
		// Git ignores the whole folder: it is none of this repository, like a project below a home that is one.
		if ignored, _ := r.match(strings.TrimSuffix(dir, "/"), true); ignored {
			defaults, _ := parseRules(strings.Join(s.defaults, "\n"), "")
			return defaults
		}
	}
	s.prefix = dir
	defaults, _ := parseRules(strings.Join(s.defaults, "\n"), dir)
	return append(defaults, r...)
}

// repository is the folder behind .git, which is a file in a worktree: its folder has the path of the repository's.
func repository(git string) string {
	content, err := os.ReadFile(git)
	if err != nil {
		return git
	}
	dir := resolve(filepath.Dir(git), strings.TrimPrefix(string(content), "gitdir:"))
	if common, err := os.ReadFile(filepath.Join(dir, "commondir")); err == nil {
		dir = resolve(dir, string(common))
	}
	return dir
}

// resolve is the path of a file's line, which may be relative to dir.
func resolve(dir, line string) string {
	line = strings.TrimSpace(line)
	if filepath.IsAbs(line) {
		return line
	}
	return filepath.Join(dir, line)
}

// userExcludes is the file of patterns that the user's configuration of git names, or git's default.
func userExcludes(root string) string {
	cmd := exec.Command("git", "config", "--type=path", "--get", "core.excludesFile")
	cmd.Dir = root
	if path, err := cmd.Output(); err == nil {
		return strings.TrimSpace(string(path))
	}
	dir, err := os.UserConfigDir()
	if err != nil {
		return ""
	}
	return filepath.Join(dir, "git", "ignore")
}

// subscribe asks the kernel to report changes in a folder. A folder that is subscribed to already stays so. Where the
// kernel has no watches left, which other programs may have used up, changes are found by polling from then on.
func (s *scanner) subscribe(real string) {
	if s.kernel == nil {
		return
	}
	err := s.kernel.Add(real)
	switch {
	case err == nil, errors.Is(err, fs.ErrNotExist), errors.Is(err, fs.ErrPermission):
		return
	case errors.Is(err, syscall.ENOSPC):
		err = fmt.Errorf("%s: %w (sysctl fs.inotify.max_user_watches)", real, err)
	default:
		err = fmt.Errorf("%s: %w", real, err)
	}
	s.poll(err)
}

// poll ends the kernel's reports.
func (s *scanner) poll(cause error) {
	s.log.Warn("the kernel gives no watches; polling instead", "cause", cause)
	s.close()
	s.kernel = nil
}

// unsubscribe ends the reports on folders that are not watched any more, such as those of a release before the last one.
// A renamed folder's subfolders are known to the library by their old name, and share a watch with the new one: so all
// folders are subscribed to again.
func (s *scanner) unsubscribe() {
	if s.kernel == nil {
		return
	}
	gone := slices.DeleteFunc(s.kernel.WatchList(), func(real string) bool { _, visited := s.folders[real]; return visited })
	for _, real := range gone {
		_ = s.kernel.Remove(real) // fails when the kernel has ended it already
	}
	if s.repeat = len(gone) > 0; s.repeat {
		for real := range s.folders {
			s.subscribe(real)
		}
	}
}

// close ends the kernel's reports.
func (s *scanner) close() {
	if s.kernel != nil {
		s.kernel.Close()
	}
}
