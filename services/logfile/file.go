package logfile

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// suffix ends the name of every log file.
const suffix = ".log"

// backupTime is what stands between the name and the suffix of a file that was rotated. The time is UTC.
const backupTime = "-2006-01-02T15-04-05.000"

// Path is the log file of that name in dir.
func Path(dir, name string) string { return filepath.Join(dir, name+suffix) }

// List returns the log files in dir by name. Rotated ones are left out. A dir that does not exist has none.
func List(dir string) (map[string]string, error) {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		err = nil
	}
	files := map[string]string{}
	for _, e := range entries {
		name, ok := strings.CutSuffix(e.Name(), suffix)
		if !ok || e.IsDir() {
			continue
		}
		if _, err := time.Parse(backupTime, name[max(0, len(name)-len(backupTime)):]); err != nil {
			files[name] = Path(dir, name)
		}
	}
	return files, err
}

// rotated returns the files that were rotated away from a log file, the oldest first.
func rotated(path string) (all []string) {
	dir, base := filepath.Split(strings.TrimSuffix(path, suffix))
	entries, _ := os.ReadDir(filepath.Clean(dir)) // sorted by name; a folder that can't be read has none
	for _, e := range entries {
		stamp, ok := strings.CutPrefix(strings.TrimSuffix(e.Name(), suffix), base)
		if !ok || !strings.HasSuffix(e.Name(), suffix) {
			continue
		}
		if _, err := time.Parse(backupTime, stamp); err == nil { // else another server, whose name begins with this one's
			all = append(all, dir+e.Name())
		}
	}
	return all
}

// Empty makes a log file empty and removes the rotated ones. A writer need not know: File appends.
func Empty(path string) error {
	for _, backup := range rotated(path) {
		if err := os.Remove(backup); err != nil {
			return err
		}
	}
	return os.Truncate(path, 0)
}

// File is a log file to which several processes may append, and that each of them rotates at a size. Before each write it
// looks at the path: where the file was moved or removed, by another writer or by logrotate(8), it opens the one that is
// there now, or makes a new one. A file that was truncated goes on at its begin. Its methods are for one goroutine.
type File struct {
	Path    string
	MaxSize int64 // bytes at which the file is rotated
	Backups int   // rotated files that are kept
	// Redirect lets the process's standard output and error follow the log from one file to the next, so that a stack
	// trace of the Go runtime is in it. The runtime writes it to descriptor 2 itself, past everything in this process that
	// could hand it on.
	Redirect bool

	file *os.File // nil: not open
	info os.FileInfo
}

// Write appends lines. While no new file can be opened, or the full one can't be moved, they go to the one that is open.
func (f *File) Write(lines []byte) (int, error) {
	size, err := f.follow()
	if err == nil && size > 0 && size+int64(len(lines)) > f.MaxSize {
		err = f.rotate()
	}
	if f.file == nil {
		return 0, err
	}
	return f.file.Write(lines)
}

// follow opens the file that the path names, unless it is open already, and returns its size in bytes.
func (f *File) follow() (size int64, err error) {
	current, err := os.Stat(f.Path)
	if err == nil && f.isOpen(current) {
		return current.Size(), nil
	}
	next, err := f.open()
	if errors.Is(err, fs.ErrNotExist) { // its folder was removed
		if err = os.MkdirAll(filepath.Dir(f.Path), 0o700); err == nil {
			next, err = f.open()
		}
	}
	if err != nil {
		return 0, err
	}
	if current, err = next.Stat(); err != nil {
		next.Close()
		return 0, err
	}
	f.close()
	f.file, f.info = next, current
	if f.Redirect {
		_ = unix.Dup2(int(next.Fd()), unix.Stdout)
		_ = unix.Dup2(int(next.Fd()), unix.Stderr)
	}
	return current.Size(), nil
}

func (f *File) open() (*os.File, error) {
	return os.OpenFile(f.Path, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
}

// isOpen tells whether a file is the one that is open.
func (f *File) isOpen(file os.FileInfo) bool { return f.file != nil && os.SameFile(f.info, file) }

// rotate moves the full file away, opens a new one, and removes the oldest backups.
func (f *File) rotate() error {
	if err := f.moveAway(); err != nil {
		return err
	}
	if _, err := f.follow(); err != nil {
		return err
	}
	old := rotated(f.Path)
	for _, backup := range old[:max(0, len(old)-f.Backups)] {
		if err := os.Remove(backup); err != nil && !errors.Is(err, fs.ErrNotExist) { // another writer removes them, too
			return err
		}
	}
	return nil
}

// moveAway makes the open file a backup. Of several writers that find it full one gets the lock first; for the others the
// path names another file then, which must stay.
func (f *File) moveAway() error {
	lock := int(f.file.Fd())
	if err := unix.Flock(lock, unix.LOCK_EX); err != nil {
		return err
	}
	defer func() { _ = unix.Flock(lock, unix.LOCK_UN) }()
	if current, err := os.Stat(f.Path); err != nil || !f.isOpen(current) {
		return nil
	}
	return os.Rename(f.Path, f.backupPath())
}

// backupPath is a path for the full file that sorts after those of all backups, even where the clock was set back.
func (f *File) backupPath() string {
	at, name := time.Now().UTC().Truncate(time.Millisecond), strings.TrimSuffix(f.Path, suffix)
	if old := rotated(f.Path); len(old) > 0 {
		stamp := strings.TrimSuffix(strings.TrimPrefix(old[len(old)-1], name), suffix)
		if last, err := time.Parse(backupTime, stamp); err == nil && !at.After(last) {
			at = last.Add(time.Millisecond)
		}
	}
	return name + at.Format(backupTime) + suffix
}

// close closes the file. Write opens it again.
func (f *File) close() {
	if f.file != nil {
		f.file.Close()
		f.file = nil
	}
}
