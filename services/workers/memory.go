package workers

import gopsutil "github.com/shirou/gopsutil/v4/process"

// ResidentMemory is a process's resident memory in bytes, 0 when it cannot be read. Source: gopsutil, which reads
// /proc/PID/statm on Linux.
func ResidentMemory(pid int) int64 {
	p, err := gopsutil.NewProcess(int32(pid))
	if err != nil {
		return 0
	}
	info, err := p.MemoryInfo()
	if err != nil {
		return 0
	}
	return int64(info.RSS)
}
