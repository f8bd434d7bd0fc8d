package provision

import (
	"crypto/sha256"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
)

// versionFile is what nginx answers at /version: the version of the configuration that it has loaded. nginx.conf includes
// it, and nginx/start.sh makes nginx load the configuration again when it changes.
const versionFile = "version.conf"

// writeVersion writes the version of all that nginx reads: its configuration, and the files in dir. It is written last, so
// that nginx begins to read when all of them are there. key.pem has no part in it: a key does not change without its
// certificate.
func writeVersion(dir, nginx string) error {
	hash := sha256.New()
	add := func(name, path string) error {
		content, err := os.ReadFile(path)
		if err == nil {
			fmt.Fprintf(hash, "%q %d %s", name, len(content), content)
		}
		return err
	}
	if nginx != "" {
		if err := fs.WalkDir(os.DirFS(nginx), ".", func(name string, entry fs.DirEntry, err error) error {
			if err != nil || entry.IsDir() {
				return err
			}
			return add(name, filepath.Join(nginx, name))
		}); err != nil {
			return err
		}
	}
	for _, name := range []string{"site.conf", "limits.conf", certificateFile} {
		if err := add(name, filepath.Join(dir, name)); err != nil {
			return err
		}
	}
	version := fmt.Appendf(nil, "return 200 %x;\n", hash.Sum(nil)[:8])
	return writeFile(filepath.Join(dir, versionFile), version, 0o444, nginxUser, nginxUser)
}
