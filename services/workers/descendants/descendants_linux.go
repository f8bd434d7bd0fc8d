package descendants

import (
	"bytes"
	"os"
	"strconv"

	"golang.org/x/sys/unix"
)

// BecomeSubreaper makes the kernel give this process the descendants whose parents end (PR_SET_CHILD_SUBREAPER(2const)).
func BecomeSubreaper() error {
	return os.NewSyscallError("prctl", unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0))
}

// list returns all processes that /proc shows.
func list() (all []Process) {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return nil
	}
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil {
			continue
		}
		stat, err := os.ReadFile("/proc/" + e.Name() + "/stat")
		if err != nil {
			continue
		}
		// The second field, the name in parentheses, may contain any character: see proc_pid_stat(5).
		fields := bytes.Fields(stat[bytes.LastIndexByte(stat, ')')+1:])
		if len(fields) < 2 {
			continue
		}
		parent, err := strconv.Atoi(string(fields[1]))
		if err == nil {
			all = append(all, Process{pid, parent, fields[0][0] == 'Z'})
		}
	}
	return all
}
