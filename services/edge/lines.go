package edge

import (
	"io"
	"sync"
	"time"
)

const (
	maxLines      = 1 << 20  // bytes that may wait to be written
	linesPiece    = 32 << 10 // so many are written without waiting for linesInterval
	linesInterval = 100 * time.Millisecond

	closeLinesTimeout = 500 * time.Millisecond
)

// Lines is a writer for the access log that never lets a request wait: a goroutine of its own writes what has come, many
// lines at a time. Lines that find no room, since the reader of the output is slow, are dropped and counted. Its methods may
// be called by several goroutines.
type Lines struct {
	to      io.Writer
	dropped func(n int)

	mu      sync.Mutex
	waiting []byte
	missing int // lines dropped since the last report
	closed  bool
	wake    chan struct{} // of capacity 1: linesPiece is reached, or the end
	done    chan struct{}
}

// NewLines returns a writer of whole lines to another one, which may block. dropped is told how many lines were dropped, once
// there is room again. Close must be called.
func NewLines(to io.Writer, dropped func(n int)) *Lines {
	l := &Lines{to: to, dropped: dropped, wake: make(chan struct{}, 1), done: make(chan struct{})}
	go l.run()
	return l
}

// Write takes a line. It never fails and never waits for the output.
func (l *Lines) Write(line []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed || len(l.waiting)+len(line) > maxLines {
		l.missing++
		return len(line), nil
	}
	first := len(l.waiting) == 0
	l.waiting = append(l.waiting, line...)
	if first || len(l.waiting) >= linesPiece {
		l.signal()
	}
	return len(line), nil
}

// signal wakes run.
func (l *Lines) signal() {
	select {
	case l.wake <- struct{}{}:
	default:
	}
}

// run writes what has come, at the latest linesInterval after the first line of it. Without lines it sleeps.
func (l *Lines) run() {
	defer close(l.done)
	var spare []byte
	for range l.wake {
		end := time.NewTimer(linesInterval)
		for expired := false; !expired && !l.enough(); {
			select {
			case <-l.wake:
			case <-end.C:
				expired = true
			}
		}
		end.Stop()
		l.mu.Lock()
		piece, missing, closed := l.waiting, l.missing, l.closed
		l.waiting, l.missing = spare[:0], 0
		l.mu.Unlock()
		if len(piece) > 0 {
			_, _ = l.to.Write(piece) // there is nowhere to report it to
		}
		if missing > 0 {
			l.dropped(missing)
		}
		if spare = piece; cap(spare) > 4*linesPiece { // of a time when the output was slow
			spare = nil
		}
		if closed {
			return
		}
	}
}

// enough tells whether there is something to write at once.
func (l *Lines) enough() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.closed || len(l.waiting) >= linesPiece
}

// Close writes the lines that wait, as far as that takes no longer than half a second. Later lines are dropped.
func (l *Lines) Close() {
	l.mu.Lock()
	l.closed = true
	l.signal()
	l.mu.Unlock()
	select {
	case <-l.done:
	case <-time.After(closeLinesTimeout):
	}
}
