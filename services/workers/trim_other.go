//go:build !linux

package workers

func unload() {}
