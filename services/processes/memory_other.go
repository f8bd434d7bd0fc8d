//go:build !linux

package processes

func privateMemory() int64 { return 0 }
