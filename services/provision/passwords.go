package provision

import (
	"crypto/rand"
	"errors"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
)

// errPasswordsLost is the error of a start that would make a password which the existing database does not know.
var errPasswordsLost = errors.New(`the volume "mongo" has a database whose passwords are gone from the volume "secrets": ` +
	`"sh services/new-passwords.sh" gives it new ones and keeps its data`)

// passwordFile is a file in the volume "secrets" and its readers.
type passwordFile struct {
	name     string
	mode     fs.FileMode
	uid, gid int
}

var (
	rootPassword        = passwordFile{"mongo-root-password", 0o400, mongoUser, mongoUser}
	applicationPassword = passwordFile{"mongo-password", 0o440, appUser, mongoUser}
)

// keepPasswords makes MongoDB's two passwords where they are missing, and with settings.NewPasswords in any case. A new
// password of the application needs no more: MongoDB's health check gives it to the database. Only root can do that, so a
// database whose root password is missing is an error.
func keepPasswords(dir string, settings Settings) error {
	for _, f := range []passwordFile{rootPassword, applicationPassword} {
		path := filepath.Join(dir, f.name)
		_, err := os.Stat(path)
		missing := errors.Is(err, fs.ErrNotExist)
		if err != nil && !missing {
			return err
		}
		if missing && f == rootPassword && !settings.NewPasswords {
			if err := checkNoDatabase(settings.MongoData); err != nil {
				return err
			}
		}
		if !missing && !settings.NewPasswords {
			continue
		}
		if err := writeFile(path, []byte(rand.Text()), f.mode, f.uid, f.gid); err != nil {
			return err
		}
		slog.Info("made a password", "file", path)
	}
	return nil
}

// checkNoDatabase returns errPasswordsLost when the folder of MongoDB's data is not empty.
func checkNoDatabase(folder string) error {
	if folder == "" {
		return nil
	}
	entries, err := os.ReadDir(folder)
	if err == nil && len(entries) > 0 {
		err = errPasswordsLost
	}
	return err
}
