package workers

import (
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
)

// memoryGroup is the control group of this process, as far as it is about memory: cgroups(7).
type memoryGroup struct {
	dir, top  string // of the group, and of the highest one that this process sees
	killsFile string // has a line "oom_kill N"
	limitFile string

	mu         sync.Mutex
	killsKnown int // that belong to a process whose end is known
}

// findMemoryGroup finds it in the file system below root, which is / but in tests. It is nil where there is none.
func findMemoryGroup(root string) *memoryGroup {
	groups, err := os.ReadFile(filepath.Join(root, "proc/self/cgroup"))
	if err != nil {
		return nil
	}
	mount := filepath.Join(root, "sys/fs/cgroup")
	unified := ""
	for line := range strings.Lines(string(groups)) { // NUMBER:CONTROLLERS:PATH
		fields := strings.SplitN(strings.TrimSuffix(line, "\n"), ":", 3)
		switch {
		case len(fields) < 3:
		case fields[1] == "memory": // version 1
			g := &memoryGroup{top: filepath.Join(mount, "memory"), killsFile: "memory.oom_control", limitFile: "memory.limit_in_bytes"}
			return g.in(fields[2])
		case fields[0] == "0":
			unified = fields[2]
		}
	}
	g := &memoryGroup{top: mount, killsFile: "memory.events", limitFile: "memory.max"}
	return g.in(unified)
}

// in chooses the group of that path. A container may see its own group as the highest one, though the path is the host's.
func (g *memoryGroup) in(path string) *memoryGroup {
	for _, dir := range []string{filepath.Join(g.top, path), g.top} {
		g.dir = dir
		if kills, ok := g.kills(); ok {
			g.killsKnown = kills
			return g
		}
	}
	return nil
}

// kills is how many processes of the group the kernel has killed, since it had no memory for them.
func (g *memoryGroup) kills() (n int, ok bool) {
	text, _ := os.ReadFile(filepath.Join(g.dir, g.killsFile))
	for line := range strings.Lines(string(text)) {
		if number, found := strings.CutPrefix(line, "oom_kill "); found {
			n, err := strconv.Atoi(strings.TrimSuffix(number, "\n"))
			return n, err == nil
		}
	}
	return 0, false
}

// killed tells whether a process that a SIGKILL has just ended was killed for the lack of memory. Each kill counts for one
// process, since several may end at the same time.
func (g *memoryGroup) killed() bool {
	if g == nil {
		return false
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	n, ok := g.kills()
	if !ok || n <= g.killsKnown {
		return false
	}
	g.killsKnown++
	return true
}

// limit is the lowest limit, in bytes, of the group and of those above it; 0: there is none.
func (g *memoryGroup) limit() (lowest int64) {
	for dir := g.dir; ; dir = filepath.Dir(dir) {
		text, _ := os.ReadFile(filepath.Join(dir, g.limitFile))
		n, err := strconv.ParseInt(strings.TrimSpace(string(text)), 10, 64) // "max" is none
		if err == nil && n < noLimit && (lowest == 0 || n < lowest) {
			lowest = n
		}
		if len(dir) <= len(g.top) {
			return lowest
		}
	}
}

// noLimit and above are what version 1 has where there is no limit: the highest number of whole pages.
const noLimit = 1 << 62
