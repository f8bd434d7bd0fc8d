package draw

import (
	"context"
	"os"
	"strconv"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// lowThreads counts this process's threads of lowest priority, but for the main one, which Go parks and does not end.
func lowThreads(t *testing.T) int {
	t.Helper()
	tasks, err := os.ReadDir("/proc/self/task")
	if err != nil {
		t.Fatal(err)
	}
	low := 0
	for _, task := range tasks {
		tid, err := strconv.Atoi(task.Name())
		if err != nil {
			t.Fatal(err)
		}
		// The system call answers 20 - nice; a thread that has ended meanwhile is an error and does not count.
		if priority, err := unix.Getpriority(unix.PRIO_PROCESS, tid); err == nil && priority == 1 && tid != os.Getpid() {
			low++
		}
	}
	return low
}

func eventually(t *testing.T, failure string, reached func() bool) {
	t.Helper()
	for range 2000 {
		if reached() {
			return
		}
		time.Sleep(time.Millisecond)
	}
	t.Error(failure)
}

func TestThreadsAreLowAndEnd(t *testing.T) {
	sharedPool.wait(t)
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		for ctx.Err() == nil {
			_, _ = Histogram(ctx, Max)
		}
	}()
	eventually(t, "no thread of low priority draws", func() bool { return lowThreads(t) > 0 })
	cancel()
	<-ended
	eventually(t, "threads of low priority are left", func() bool { return lowThreads(t) == 0 })
}
