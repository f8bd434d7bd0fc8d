package processes

import (
	"os"
	"syscall"
	"time"

	gopsutil "github.com/shirou/gopsutil/v4/process"
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
// the process ends. It is 0 where the system does not tell, that is, elsewhere than on Linux. Source: Private_Dirty of
// proc_pid_smaps(5).
func privateMemory() int64 {
	self := gopsutil.Process{Pid: int32(os.Getpid())}
	maps, err := self.MemoryMaps(true)
	if err != nil {
		return 0
	}
	return int64((*maps)[0].PrivateDirty) << 10
}
