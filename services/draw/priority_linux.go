package draw

import "golang.org/x/sys/unix"

// lowPriority makes the system take the processor from the calling thread as soon as any ordinary thread can run. Weight
// alone (nice 19, a 68th) is not enough: since Linux 6.6 a thread keeps the processor for its slice, 3 ms, so it asks
// for the shortest, 0.1 ms. Where the system does not allow it, the priority stays.
func lowPriority() {
	const self = 0
	err := unix.SchedSetAttr(self, &unix.SchedAttr{
		Size:    unix.SizeofSchedAttr,
		Policy:  unix.SCHED_NORMAL,
		Nice:    19,
		Runtime: 100_000, // ns
	}, 0)
	if err != nil {
		_ = unix.Setpriority(unix.PRIO_PROCESS, self, 19) // on Linux, of the calling thread alone
	}
}
