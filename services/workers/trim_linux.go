package workers

import (
	"bufio"
	"fmt"
	"os"
	"strings"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"
)

// mapping is a stretch of the address space.
type mapping struct{ from, to uintptr }

// unload gives back the pages of the program's code and constants. Those that are needed again come back from the
// kernel's cache, sixteen at a time: the first request after a rest takes a millisecond or two longer.
func unload() {
	for _, m := range constants() { // with as little code as can be: what runs here comes back at once
		_, _, _ = syscall.Syscall(unix.SYS_MADVISE, m.from, m.to-m.from, unix.MADV_DONTNEED)
	}
}

// constants lists the mappings of this program's file that nobody writes to, as far as they can be known.
var constants = sync.OnceValue(func() (all []mapping) {
	self, err := os.Readlink("/proc/self/exe")
	if err != nil {
		return nil
	}
	maps, err := os.Open("/proc/self/maps")
	if err != nil {
		return nil
	}
	defer maps.Close()
	for lines := bufio.NewScanner(maps); lines.Scan(); {
		var m mapping
		var rights string
		// from-to rights offset device inode path
		n, _ := fmt.Sscanf(lines.Text(), "%x-%x %s", &m.from, &m.to, &rights)
		if n == 3 && (rights == "r-xp" || rights == "r--p") && strings.HasSuffix(lines.Text(), " "+self) {
			all = append(all, m)
		}
	}
	return all
})
