package workers

import (
	"errors"
	"syscall"

	"golang.org/x/sys/unix"
)

// quiet makes the kernel drop requests for new connections on a socket that is about to be closed for good: who has
// connected is still accepted, who has not tries again and finds another server, or none. Without it, connections that
// are in the queue when the last process closes the socket are reset, requests and all.
func quiet(ln syscall.Conn) error {
	raw, err := ln.SyscallConn()
	if err != nil {
		return err
	}
	const flags, acknowledges = 13, 0x10 // of TCP's header: the byte, and the bit that a first packet lacks
	program := []unix.SockFilter{
		{Code: unix.BPF_LD | unix.BPF_B | unix.BPF_ABS, K: flags},
		{Code: unix.BPF_JMP | unix.BPF_JSET | unix.BPF_K, K: acknowledges, Jt: 0, Jf: 1},
		{Code: unix.BPF_RET | unix.BPF_K, K: 1<<32 - 1}, // keep all of it
		{Code: unix.BPF_RET | unix.BPF_K, K: 0},         // drop
	}
	var failed error
	err = raw.Control(func(fd uintptr) {
		failed = unix.SetsockoptSockFprog(int(fd), unix.SOL_SOCKET, unix.SO_ATTACH_FILTER,
			&unix.SockFprog{Len: uint16(len(program)), Filter: &program[0]})
	})
	return errors.Join(err, failed)
}
