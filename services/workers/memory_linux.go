package workers

import gopsutil "github.com/shirou/gopsutil/v4/process"

func proportionalMemory(pid int) (int64, error) {
	p := gopsutil.Process{Pid: int32(pid)}
	maps, err := p.MemoryMaps(true)
	if err != nil {
		return 0, err
	}
	return int64((*maps)[0].Pss) << 10, nil
}
