//go:build !linux

package line

import (
	"errors"
	"os"
)

func openTUN(string) (*os.File, error) { return nil, errors.ErrUnsupported }
