package proctree

import "testing"

// PrivateMemory returns the memory of a process in bytes that would be free without it: Private_Dirty of
// /proc/PID/smaps_rollup, the pages that the process has written and shares with no other.
func PrivateMemory(t *testing.T, pid int) int {
	t.Helper()
	maps, err := find(t, pid).MemoryMaps(true) // one element with the sums
	if err != nil {
		t.Fatalf("memory of process %d: %v", pid, err)
	}
	return int((*maps)[0].PrivateDirty) << 10 // gopsutil gives KiB
}
