package workers

import (
	"runtime/debug"
	"sync/atomic"
	"time"
)

// settled is how long after its last start something needs what only its start needed.
const settled = 2 * time.Second

var trimming atomic.Pointer[time.Timer]

// trimSoon gives back the memory that only a start needed, once nothing has started for a moment.
func trimSoon() {
	if last := trimming.Swap(time.AfterFunc(settled, trim)); last != nil {
		last.Stop()
	}
}

func trim() {
	debug.FreeOSMemory()
	unload()
}
