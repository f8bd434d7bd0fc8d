// Package descendants finds and ends the processes that a process has started, directly or through others. The root must
// be a subreaper (see BecomeSubreaper): then a process whose parent has ended stays a descendant of it.
package descendants

import (
	"syscall"
	"time"
)

// Process is a running process or a zombie.
type Process struct {
	PID, Parent int
	Zombie      bool
}

// Tree is a snapshot of the system's processes, by their parents.
type Tree map[int][]Process

// Snapshot reads all processes.
func Snapshot() Tree {
	t := Tree{}
	for _, p := range list() {
		t[p.Parent] = append(t[p.Parent], p)
	}
	return t
}

// Of returns the pids of root's descendants, without zombies, and without those for which skip is true and their own
// descendants. A nil skip skips none.
func (t Tree) Of(root int, skip func(pid int) bool) (pids []int) {
	pending := []int{root}
	for len(pending) > 0 {
		parent := pending[0]
		pending = pending[1:]
		for _, p := range t[parent] {
			if skip != nil && skip(p.PID) {
				continue
			}
			if !p.Zombie {
				pids = append(pids, p.PID)
			}
			pending = append(pending, p.PID)
		}
	}
	return pids
}

// Signal sends a signal to each of root's descendants; see Tree.Of.
func Signal(root int, skip func(pid int) bool, s syscall.Signal) {
	for _, pid := range Snapshot().Of(root, skip) {
		_ = syscall.Kill(pid, s) // it may have ended
	}
}

// killPause is the time between two rounds of Kill: a process that is being killed may have started another one.
const killPause = 5 * time.Millisecond

// killRounds bounds Kill: a process in an uninterruptible wait stays for as long as that lasts.
const killRounds = 200

// Kill sends SIGKILL to root's descendants until there are none, for about a second at most; see Tree.Of.
func Kill(root int, skip func(pid int) bool) {
	for range killRounds {
		pids := Snapshot().Of(root, skip)
		if len(pids) == 0 {
			return
		}
		for _, pid := range pids {
			_ = syscall.Kill(pid, syscall.SIGKILL)
		}
		time.Sleep(killPause)
	}
}
