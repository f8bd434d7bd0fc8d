//go:build !linux

package descendants

import (
	gopsutil "github.com/shirou/gopsutil/v4/process"
)

// BecomeSubreaper does nothing here: only Linux has subreapers.
func BecomeSubreaper() error { return nil }

// list returns all processes of the system.
func list() (all []Process) {
	processes, _ := gopsutil.Processes()
	for _, p := range processes {
		if parent, err := p.Ppid(); err == nil {
			status, _ := p.Status()
			all = append(all, Process{int(p.Pid), int(parent), len(status) > 0 && status[0] == gopsutil.Zombie})
		}
	}
	return all
}
