package processes

import (
	"bytes"
	"os"
	"strconv"
	"syscall"
	"time"
)

// cpuTime is the processor time of this process since its start.
func cpuTime() time.Duration {
	var usage syscall.Rusage
	if syscall.Getrusage(syscall.RUSAGE_SELF, &usage) != nil {
		return 0
	}
	return time.Duration(usage.Utime.Nano() + usage.Stime.Nano())
}

// privateMemory is how many bytes this process has written and shares with none: the machine gets exactly these back when
// the process ends. It is 0 where the system does not tell, that is, elsewhere than on Linux.
func privateMemory() int64 {
	maps, err := os.ReadFile("/proc/self/smaps_rollup")
	if err != nil {
		return 0
	}
	_, rest, _ := bytes.Cut(maps, []byte("Private_Dirty:"))
	number, _, _ := bytes.Cut(rest, []byte(" kB"))
	kib, err := strconv.ParseInt(string(bytes.TrimSpace(number)), 10, 64)
	if err != nil {
		return 0
	}
	return kib << 10
}
