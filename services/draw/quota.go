package draw

import (
	"fmt"
	"os"
	"path/filepath"
)

// quota returns how many processors' time a container's limit (Docker's --cpus) leaves to this process, or 0 when there is
// no limit. root is where the control groups are mounted; there a container sees its own group.
func quota(root string) float64 {
	var most, period float64
	read := func(file string, into ...any) bool {
		text, err := os.ReadFile(filepath.Join(root, file))
		if err != nil {
			return false
		}
		_, err = fmt.Sscan(string(text), into...)
		return err == nil
	}
	limited := read("cpu.max", &most, &period) || // version 2; "max" for the number is no limit
		read("cpu/cpu.cfs_quota_us", &most) && read("cpu/cpu.cfs_period_us", &period) // version 1; -1 is no limit
	if !limited || most <= 0 || period <= 0 {
		return 0
	}
	return most / period
}
