package provision

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

// Copy names a folder and the one that is to hold the same files: a folder of the clone, and a volume.
type Copy struct{ From, To string }

// certificatesFolder is the folder within nginx's that may hold a private key. It is never copied.
const certificatesFolder = "certificates"

// run makes To hold the files of From, readable by every user, and nothing else. The containers' users could not read the
// clone itself where its umask forbids that. An empty From is an error: Docker makes such a folder where there is none, here
// or on the machine of a remote engine.
func (c Copy) run() error {
	entries, err := os.ReadDir(c.From)
	if err == nil && len(entries) == 0 {
		return fmt.Errorf("there are no files in %s", c.From)
	}
	if err == nil {
		err = copyFolder(c.From, c.To)
	}
	return err
}

// copyFolder is run for one folder. Names that begin with a dot are left out: they belong to git, editors and writeFile. A
// symbolic link counts as what it names.
func copyFolder(from, to string) error {
	entries, err := os.ReadDir(from)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(to, 0o755); err != nil {
		return err
	}
	if err := os.Chmod(to, 0o755); err != nil { // whatever the umask
		return err
	}
	present := map[string]bool{}
	for _, entry := range entries {
		name := entry.Name()
		if strings.HasPrefix(name, ".") || name == certificatesFolder {
			continue
		}
		present[name] = true
		if err := copyEntry(filepath.Join(from, name), filepath.Join(to, name)); err != nil {
			return err
		}
	}
	old, err := os.ReadDir(to)
	if err != nil {
		return err
	}
	for _, entry := range old {
		if !present[entry.Name()] {
			if err := os.RemoveAll(filepath.Join(to, entry.Name())); err != nil {
				return err
			}
		}
	}
	return nil
}

// copyEntry copies a file, or a folder with what is in it.
func copyEntry(from, to string) error {
	info, err := os.Stat(from)
	if err != nil {
		return err
	}
	if old, err := os.Lstat(to); err == nil && old.IsDir() != info.IsDir() {
		if err := os.RemoveAll(to); err != nil {
			return err
		}
	}
	switch {
	case info.IsDir():
		return copyFolder(from, to)
	case !info.Mode().IsRegular():
		return fmt.Errorf("%s is neither a file nor a folder", from)
	}
	content, err := os.ReadFile(from)
	if err != nil {
		return err
	}
	return writeFile(to, content, 0o444, 0, 0)
}
