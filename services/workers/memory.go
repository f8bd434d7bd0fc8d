package workers

import "github.com/shirou/gopsutil/v4/process"

// ResidentMemory is a process's resident memory in bytes, 0 when it can't be told.
func ResidentMemory(pid int) int64 {
	p, err := process.NewProcess(int32(pid))
	if err != nil {
		return 0
	}
	info, err := p.MemoryInfo()
	if err != nil {
		return 0
	}
	return int64(info.RSS)
}
