package share

import (
	"errors"
	"syscall"

	"golang.org/x/sys/unix"
)

// rejectNew attaches a filter that drops SYN packets to a listening socket. Without it, connections whose handshake ends
// between the last accept and the last close are reset together with the request that they brought; a client whose SYN
// is dropped tries again a second later, and finds another server or none, before it has sent anything.
func rejectNew(ln syscall.Conn) error {
	raw, err := ln.SyscallConn()
	if err != nil {
		return err
	}
	const flagsOffset, ackFlag = 13, 0x10 // in the TCP header (RFC 9293, 3.1): only the first packet has no ACK
	program := []unix.SockFilter{
		{Code: unix.BPF_LD | unix.BPF_B | unix.BPF_ABS, K: flagsOffset},
		{Code: unix.BPF_JMP | unix.BPF_JSET | unix.BPF_K, K: ackFlag, Jt: 0, Jf: 1},
		{Code: unix.BPF_RET | unix.BPF_K, K: 1<<32 - 1}, // accept the whole packet
		{Code: unix.BPF_RET | unix.BPF_K, K: 0},         // drop it
	}
	var failed error
	err = raw.Control(func(fd uintptr) {
		failed = unix.SetsockoptSockFprog(int(fd), unix.SOL_SOCKET, unix.SO_ATTACH_FILTER,
			&unix.SockFprog{Len: uint16(len(program)), Filter: &program[0]})
	})
	return errors.Join(err, failed)
}
