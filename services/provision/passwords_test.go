package provision

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// An existing database knows only its own passwords, so a start without root's fails and says how to mend that.
func TestLostPasswords(t *testing.T) {
	dir, data := t.TempDir(), t.TempDir()
	settings := Settings{MongoData: data}
	mustRun(t, dir, settings) // the first start: there is no database
	if err := os.WriteFile(filepath.Join(data, "WiredTiger"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	mustRun(t, dir, settings)
	root, application := filepath.Join(dir, rootPassword.name), filepath.Join(dir, applicationPassword.name)
	before := read(t, root)

	if err := os.Remove(application); err != nil {
		t.Fatal(err)
	}
	mustRun(t, dir, settings)
	if read(t, root) != before || read(t, application) == "" {
		t.Error("the application's password alone was missing: it was not made, or root's was made too")
	}

	if err := os.Remove(root); err != nil {
		t.Fatal(err)
	}
	err := Run(dir, nil, settings)
	if !errors.Is(err, errPasswordsLost) || !strings.Contains(err.Error(), "sh services/new-passwords.sh") || strings.Contains(err.Error(), "\n") {
		t.Errorf("root's password is gone: error %v", err)
	}
	if _, err := os.Stat(root); err == nil {
		t.Error("a password was made that the database does not know")
	}

	old := read(t, application)
	settings.NewPasswords = true
	mustRun(t, dir, settings)
	if read(t, application) == old || len(read(t, root)) < 26 || read(t, root) == before {
		t.Error("the passwords were not made again")
	}
	settings.NewPasswords = false
	mustRun(t, dir, settings)
}

func TestMongoDataThatIsNotThere(t *testing.T) {
	if err := Run(t.TempDir(), nil, Settings{MongoData: "/no/such/folder"}); err == nil || !strings.Contains(err.Error(), "/no/such/folder") {
		t.Errorf("error %v", err)
	}
}
