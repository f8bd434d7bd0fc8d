package instance

import (
	"encoding/binary"
	"os"
	"syscall"

	"golang.org/x/sys/unix"
)

// listeningSocket is a TCP socket that listens.
type listeningSocket struct {
	port  int
	inode uint32
}

// Sizes and offsets of inet_diag_req_v2 and inet_diag_msg: see sock_diag(7).
const (
	diagRequestSize = 56
	diagSourcePort  = 4 // in network byte order
	diagInode       = 68
	diagMessageSize = 72
)

// listeningSockets are those of this process's network namespace. The kernel is asked for these alone: /proc/net/tcp has every
// connection of the machine, and is slow to read where there are many.
func listeningSockets() []listeningSocket {
	var all []listeningSocket
	for _, family := range []byte{unix.AF_INET, unix.AF_INET6} {
		all = append(all, listeningSocketsOf(family)...)
	}
	return all
}

func listeningSocketsOf(family byte) (all []listeningSocket) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_INET_DIAG)
	if err != nil {
		return nil
	}
	defer unix.Close(fd)
	const listening = 10 // TCP_LISTEN
	request := make([]byte, unix.SizeofNlMsghdr+diagRequestSize)
	binary.NativeEndian.PutUint32(request[0:], uint32(len(request)))
	binary.NativeEndian.PutUint16(request[4:], unix.SOCK_DIAG_BY_FAMILY)
	binary.NativeEndian.PutUint16(request[6:], unix.NLM_F_REQUEST|unix.NLM_F_DUMP)
	request[unix.SizeofNlMsghdr], request[unix.SizeofNlMsghdr+1] = family, unix.IPPROTO_TCP
	binary.NativeEndian.PutUint32(request[unix.SizeofNlMsghdr+4:], 1<<listening)
	if unix.Sendto(fd, request, 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}) != nil {
		return nil
	}
	for answer := make([]byte, 16*os.Getpagesize()); ; {
		n, _, err := unix.Recvfrom(fd, answer, 0)
		if err == unix.EINTR {
			continue
		}
		messages, parseErr := syscall.ParseNetlinkMessage(answer[:max(n, 0)])
		if err != nil || parseErr != nil {
			return all
		}
		for _, m := range messages {
			if m.Header.Type != unix.SOCK_DIAG_BY_FAMILY || len(m.Data) < diagMessageSize { // the end, or an error
				return all
			}
			all = append(all, listeningSocket{
				port: int(binary.BigEndian.Uint16(m.Data[diagSourcePort:])), inode: binary.NativeEndian.Uint32(m.Data[diagInode:]),
			})
		}
	}
}
