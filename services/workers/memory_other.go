//go:build !linux

package workers

import "errors"

func proportionalMemory(int) (int64, error) { return 0, errors.ErrUnsupported }
