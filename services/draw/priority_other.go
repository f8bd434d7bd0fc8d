//go:build !linux

package draw

// lowPriority does nothing where a thread's priority cannot be set.
func lowPriority() {}
