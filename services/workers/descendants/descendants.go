// Package descendants finds and ends the processes that a process has started, directly or through others. The root must
// be a subreaper (see BecomeSubreaper): then a process whose parent has ended stays a descendant of it.
package descendants

import (
	"slices"
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

// snapshotTries bounds Snapshot, in case that processes end faster than they can be read.
const snapshotTries = 20

// Snapshot reads all processes. They cannot be read at one moment: when a parent ends between the reading of its child and
// its own, the child would seem to be nobody's, so all are read again.
func Snapshot() (t Tree) {
	for range snapshotTries {
		all := list()
		t = make(Tree, len(all))
		known := map[int]bool{0: true} // the parent of process 1, and of those that came from outside the namespace
		for _, p := range all {
			t[p.Parent] = append(t[p.Parent], p)
			known[p.PID] = true
		}
		if !slices.ContainsFunc(all, func(p Process) bool { return !known[p.Parent] }) {
			break
		}
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

// Of returns root's descendants, as Tree.Of does. It looks twice before it says that there are none: a process that started
// another one and ended during the first look shows neither.
func Of(root int, skip func(pid int) bool) []int {
	if pids := Snapshot().Of(root, skip); len(pids) > 0 {
		return pids
	}
	return Snapshot().Of(root, skip)
}

// Signal sends a signal to each of root's descendants; see Tree.Of.
func Signal(root int, skip func(pid int) bool, s syscall.Signal) {
	for _, pid := range Of(root, skip) {
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
		pids := Of(root, skip)
		if len(pids) == 0 {
			return
		}
		for _, pid := range pids {
			_ = syscall.Kill(pid, syscall.SIGKILL)
		}
		time.Sleep(killPause)
	}
}
