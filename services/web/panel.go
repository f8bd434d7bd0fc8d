package web

import (
	"os/exec"
	"path/filepath"
	"strings"
)

// programName is what a user types to start the program of this process, in the folder in which the process was started.
func programName(executable, folder string) string {
	executable = strings.TrimSuffix(executable, " (deleted)") // a build has replaced the file
	name := filepath.Base(executable)
	if strings.Contains(executable, string(filepath.Separator)+"go-build") { // go run removes that file at its end
		return "go run ./services/balanza"
	}
	if found, err := exec.LookPath(name); err == nil && found == executable {
		return name
	}
	if filepath.Dir(executable) == folder {
		return "./" + name
	}
	return executable
}
