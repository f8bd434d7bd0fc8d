package processes

import (
	"os"

	gopsutil "github.com/shirou/gopsutil/v4/process"
)

// privateMemory is how many bytes this process has written and shares with none: the machine gets exactly these back when
// the process ends. It is 0 where the system does not tell. Source: Private_Dirty of proc_pid_smaps(5).
func privateMemory() int64 {
	self := gopsutil.Process{Pid: int32(os.Getpid())}
	maps, err := self.MemoryMaps(true)
	if err != nil {
		return 0
	}
	return int64((*maps)[0].PrivateDirty) << 10
}
