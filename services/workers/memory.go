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

// ProportionalMemory is a process's share of the memory in use, in bytes: all that it alone has in memory, and of each page
// that n processes have, as the program's code, an n-th part. So the sum over processes is what they take of the machine.
// Where the system does not tell (it is no Linux, or the process is another user's), it is the resident memory; 0 when that
// cannot be read either. Source: Pss of /proc/PID/smaps_rollup (proc_pid_smaps(5)).
func ProportionalMemory(pid int) int64 {
	if n, err := proportionalMemory(pid); err == nil {
		return n
	}
	return ResidentMemory(pid)
}
