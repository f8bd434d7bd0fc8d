//go:build !linux

package main

import "time"

// monotonicTime is 0 where no systemd asks for it.
func monotonicTime() time.Duration { return 0 }
