package workers

import "github.com/shirou/gopsutil/v4/process"

// residentBytes is a process's resident memory, 0 when it can't be told.
func residentBytes(pid int) int64 {
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
