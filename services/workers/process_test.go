package workers

import (
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
)

// child is a process as /proc shows it.
type child struct {
	pid   int
	name  string
	state string // Z: zombie
}

// childrenOf lists a process's children, dead ones that were not waited for among them.
func childrenOf(t *testing.T, parent int) (all []child) {
	t.Helper()
	stats, err := filepath.Glob("/proc/[0-9]*/stat")
	if err != nil || len(stats) == 0 {
		t.Skipf("no /proc: %v", err)
	}
	for _, path := range stats {
		text, err := os.ReadFile(path)
		if err != nil {
			continue // ended meanwhile
		}
		head, rest, _ := strings.Cut(string(text), ") ")
		pid, name, _ := strings.Cut(head, " (")
		fields := strings.Fields(rest)
		if len(fields) < 2 || fields[1] != strconv.Itoa(parent) {
			continue
		}
		n, _ := strconv.Atoi(pid)
		all = append(all, child{n, name, fields[0]})
	}
	return all
}
