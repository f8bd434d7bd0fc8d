package watch

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"

	"balanza/services/workers/descendants"
)

// fileID names a file, whatever its path.
type fileID struct{ device, inode uint64 }

// openForWriting returns the files that this process or one that descends from it has open for writing. Processes that end
// meanwhile, or belong to another user, are left out.
func openForWriting() map[fileID]bool {
	files := map[fileID]bool{}
	for _, pid := range append(descendants.Of(os.Getpid(), nil), os.Getpid()) {
		dir := fmt.Sprintf("/proc/%d/fd", pid)
		entries, _ := os.ReadDir(dir)
		for _, e := range entries {
			info, err := os.Stat(filepath.Join(dir, e.Name()))
			if err != nil || !info.Mode().IsRegular() {
				continue
			}
			if content, err := os.ReadFile(fmt.Sprintf("/proc/%d/fdinfo/%s", pid, e.Name())); err == nil && writable(string(content)) {
				files[idOf(info)] = true
			}
		}
	}
	return files
}

// idOf is the identity of a file that os.Stat or os.Lstat described.
func idOf(info fs.FileInfo) fileID {
	stat := info.Sys().(*syscall.Stat_t)
	return fileID{uint64(stat.Dev), stat.Ino}
}

// writable reads the access mode of a descriptor from its fdinfo (proc(5)).
func writable(fdinfo string) bool {
	for line := range strings.Lines(fdinfo) {
		if octal, ok := strings.CutPrefix(line, "flags:"); ok {
			flags, err := strconv.ParseUint(strings.TrimSpace(octal), 8, 64)
			return err == nil && flags&syscall.O_ACCMODE != syscall.O_RDONLY
		}
	}
	return false
}
