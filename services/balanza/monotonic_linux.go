package main

import (
	"time"

	"golang.org/x/sys/unix"
)

// monotonicTime is the time of CLOCK_MONOTONIC, which systemd compares with its own.
func monotonicTime() time.Duration {
	var now unix.Timespec
	_ = unix.ClockGettime(unix.CLOCK_MONOTONIC, &now) // cannot fail with this clock
	return time.Duration(now.Nano())
}
