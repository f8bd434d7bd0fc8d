//go:build !linux

package share

import (
	"errors"
	"syscall"
)

// rejectNew is Linux's: elsewhere there is no such socket filter.
func rejectNew(syscall.Conn) error { return errors.ErrUnsupported }
