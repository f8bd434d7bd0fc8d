package logfile

import (
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"
	"gopkg.in/natefinch/lumberjack.v2"
)

// suffix ends the name of every log file.
const suffix = ".log"

// backupTime is what lumberjack puts between the name and the suffix of a file that it rotated.
const backupTime = "-2006-01-02T15-04-05.000"

// Path is the log file of that name in dir.
func Path(dir, name string) string { return filepath.Join(dir, name+suffix) }

// List returns the log files in dir by name. Rotated ones are left out.
func List(dir string) (map[string]string, error) {
	paths, err := filepath.Glob(Path(dir, "*"))
	files := map[string]string{}
	for _, path := range paths {
		name := strings.TrimSuffix(filepath.Base(path), suffix)
		if _, err := time.Parse(backupTime, name[max(0, len(name)-len(backupTime)):]); err != nil {
			files[name] = path
		}
	}
	return files, err
}

// rotated returns the files that were rotated away from a log file, the oldest first.
func rotated(path string) (all []string) {
	name := strings.TrimSuffix(path, suffix)
	paths, _ := filepath.Glob(name + "-*" + suffix) // its one error is a bad pattern: then none is found
	for _, backup := range paths {
		stamp := strings.TrimSuffix(strings.TrimPrefix(backup, name), suffix)
		if _, err := time.Parse(backupTime, stamp); err == nil { // else another server, whose name begins with this one's
			all = append(all, backup)
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

// File is a log file that is rotated, and that Empty may empty.
type File struct {
	*lumberjack.Logger
	// Redirect lets the process's standard output and error follow the log from one file to the next, so that a stack
	// trace of the Go runtime is in it.
	Redirect bool
	size     int64 // after the last line
}

// Write appends a line. Sink calls it from one goroutine.
func (f *File) Write(line []byte) (int, error) {
	current, err := os.Stat(f.Filename)
	size := int64(len(line))
	if err == nil {
		size += current.Size()
		if current.Size() < f.size { // emptied; lumberjack would go on at the old offset and leave a hole
			f.Close()
		}
		if f.Redirect {
			f.redirect(current)
		}
	}
	f.size = size
	return f.Logger.Write(line)
}

// redirect points the descriptors 1 and 2 to the current file unless they lead there. The Go runtime writes a crash to
// descriptor 2 itself, past everything in this process that could hand it on.
func (f *File) redirect(current os.FileInfo) {
	if open, err := os.Stderr.Stat(); err != nil || os.SameFile(current, open) {
		return
	}
	if next, err := os.OpenFile(f.Filename, os.O_APPEND|os.O_WRONLY, 0); err == nil {
		_ = unix.Dup2(int(next.Fd()), unix.Stdout)
		_ = unix.Dup2(int(next.Fd()), unix.Stderr)
		next.Close()
	}
}
