//go:build !linux

package watch

import "io/fs"

// fileID names a file; there is none here, since the descriptors of other processes can't be listed.
type fileID struct{}

func openForWriting() map[fileID]bool { return nil }

func idOf(fs.FileInfo) fileID { return fileID{} }
