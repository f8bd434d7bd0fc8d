//go:build !linux

package workers

// memoryGroup does not exist here.
type memoryGroup struct{}

func findMemoryGroup(string) *memoryGroup { return nil }

func (*memoryGroup) killed() bool { return false }

func (*memoryGroup) limit() int64 { return 0 }
