package logfile

import (
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"time"
)

// tailInterval is the time between two looks for more.
const tailInterval = 200 * time.Millisecond

// Tail shows the last n lines of a file and, if it follows, those that are added to it or to the file that replaces it,
// until ctx ends. Lines come without their line end.
func Tail(ctx context.Context, path string, n int, follow bool, show func(line []byte)) {
	f, err := os.Open(path)
	if err != nil {
		return
	}
	defer func() { f.Close() }()
	var incomplete []byte
	// The whole file is read once: it is rotated before it gets large.
	read := func() (lines [][]byte) {
		content, _ := io.ReadAll(f)
		lines = bytes.Split(append(incomplete, content...), []byte("\n"))
		incomplete = lines[len(lines)-1]
		return lines[:len(lines)-1]
	}
	lines := read()
	lines = lines[max(0, len(lines)-n):]
	for {
		for _, line := range lines {
			show(line)
		}
		if !follow {
			return
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(tailInterval):
		}
		lines = read()
		open, err1 := f.Stat()
		current, err2 := os.Stat(path)
		switch {
		case errors.Is(err2, os.ErrNotExist): // between two files
		case err1 != nil || err2 != nil:
			return
		case !os.SameFile(open, current): // rotated; the old file may have got lines since the last look
			lines = append(lines, read()...)
			if next, err := os.Open(path); err == nil {
				f.Close()
				f = next
			}
		default:
			if at, err := f.Seek(0, io.SeekCurrent); err == nil && at > current.Size() { // emptied
				_, _ = f.Seek(0, io.SeekStart)
			}
		}
	}
}
