package watch

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
)

// fileID names a file, whatever its path.
type fileID struct{ device, inode uint64 }

// openForWriting returns the files that this process or one that descends from it has open for writing. Processes that end
// meanwhile, or belong to another user, are left out.
func openForWriting() map[fileID]bool {
	files := map[fileID]bool{}
	for _, pid := range descendants(os.Getpid()) {
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

// descendants are the process and all that descend from it.
func descendants(root int) []int {
	children := map[int][]int{}
	entries, _ := os.ReadDir("/proc")
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil {
			continue
		}
		stat, err := os.ReadFile(filepath.Join("/proc", e.Name(), "stat"))
		if err != nil {
			continue
		}
		// The name of the program, in parentheses, may hold spaces and parentheses. State and parent follow it.
		fields := strings.Fields(string(stat[strings.LastIndexByte(string(stat), ')')+1:]))
		if parent, err := strconv.Atoi(fields[1]); err == nil {
			children[parent] = append(children[parent], pid)
		}
	}
	found := []int{root}
	for i := 0; i < len(found); i++ {
		found = append(found, children[found[i]]...)
	}
	return found
}
