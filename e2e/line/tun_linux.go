package line

import (
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// openTUN makes a network device of that name: the kernel gives each IP packet that it sends there to a Read, and takes
// each Write as a packet that the device received. The device exists until the file is closed.
func openTUN(name string) (*os.File, error) {
	const path = "/dev/net/tun"
	// os.OpenFile would add the descriptor to the poller before it has a device, and then no Read would ever wake up.
	fd, err := unix.Open(path, unix.O_RDWR|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: path, Err: err}
	}
	request, err := unix.NewIfreq(name)
	if err == nil {
		request.SetUint16(unix.IFF_TUN | unix.IFF_NO_PI)
		err = unix.IoctlIfreq(fd, unix.TUNSETIFF, request)
	}
	if err != nil {
		_ = unix.Close(fd)
		return nil, fmt.Errorf("the device %s: %w", name, err)
	}
	return os.NewFile(uintptr(fd), path), nil
}
