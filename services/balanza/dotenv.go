package main

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"regexp"
	"strings"
	"syscall"

	"github.com/joho/godotenv"

	"balanza/services/workers"
)

// dotEnv is the file of settings in the working folder. Other tools read it too (Compose, frameworks), so it may hold lines
// that mean nothing here.
const dotEnv = ".env"

// loadDotEnv puts the settings of .env into the environment, which wins. Variables that are no settings of Balanza stay out
// of the environment. A line that can't be read is an error where it names a setting; unassigned are the numbers of the
// lines that assign nothing.
func loadDotEnv() (unassigned []int, err error) {
	content, err := os.ReadFile(dotEnv)
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.EISDIR) { // python3 -m venv .env makes a folder
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	values, unassigned, err := parseDotEnv(content)
	if err != nil {
		return nil, err
	}
	for name, value := range values {
		if _, ok := os.LookupEnv(name); ok {
			continue
		}
		if err := os.Setenv(name, value); err != nil {
			return nil, errorf("%s: %s can't be set", dotEnv, name)
		}
	}
	return unassigned, nil
}

// warnOfUnassigned writes one line about the lines of .env that assign nothing: a value written without = would be missed in
// silence. A worker's master and the command that starts a server in the background have written it already.
func (p *program) warnOfUnassigned() {
	if len(p.settings.unassigned) == 0 || inBackground() || workers.IsWorker() {
		return
	}
	numbers := strings.Trim(fmt.Sprint(p.settings.unassigned), "[]")
	fmt.Fprintf(toTerminal(p.err), "balanza: %v\n", errorf("%s: lines that assign nothing (NAME=VALUE) are ignored: %s", dotEnv, numbers))
}

// parseDotEnv returns the settings in the text of a .env file, and the numbers of the lines that assign nothing.
func parseDotEnv(content []byte) (values map[string]string, unassigned []int, err error) {
	all, err := splitAssignments(dotEnv, content)
	if err != nil {
		return nil, nil, err
	}
	var readable []assignment
	for _, a := range all {
		switch {
		case a.fault == "":
			readable = append(readable, a)
		case isSetting(a.name):
			return nil, nil, errorf("%s, line %d: %s: %s", dotEnv, a.line, a.name, a.fault)
		case !strings.Contains(a.text, "="):
			unassigned = append(unassigned, a.line)
		}
	}
	values = join(readable)
	maps.DeleteFunc(values, func(name, _ string) bool { return !isSetting(name) })
	return values, unassigned, nil
}

// parseEnvFile returns the variables in the text of a file of --env-file, every line of which must be readable.
func parseEnvFile(path string, content []byte) (map[string]string, error) {
	all, err := splitAssignments(path, content)
	if err != nil {
		return nil, err
	}
	for _, a := range all {
		if a.fault != "" {
			return nil, errorf("%s, line %d: %s", path, a.line, a.fault)
		}
	}
	return join(all), nil
}

// assignment is one variable in a text of lines NAME=VALUE, or a line that can't be read. Neither its text nor godotenv's
// errors, which quote it, may be shown: it may be a secret.
type assignment struct {
	line  int    // number of its first line
	name  string // what the line begins with, if that can be a name
	text  string // as it is written
	fault string // why it can't be read, in the user's language; empty: it can
}

// assignmentStart is the begin of a line that may assign a variable: its name, and its value as it is written.
var assignmentStart = regexp.MustCompile(`^[ \t]*(?:export[ \t]+)?([\pL\pN_.]+)[ \t]*(?:[=:][ \t]*(.*))?`)

// splitAssignments splits a text into its assignments. A line that godotenv can't read makes it reject the whole text, so
// that each is tried alone.
func splitAssignments(path string, content []byte) (all []assignment, err error) {
	if bytes.HasPrefix(content, []byte("\xff\xfe")) || bytes.HasPrefix(content, []byte("\xfe\xff")) {
		return nil, errorf("%s is UTF-16; save it as UTF-8", path)
	}
	lines := strings.Split(strings.TrimPrefix(strings.ReplaceAll(string(content), "\r\n", "\n"), "\ufeff"), "\n")
	for i, next := 0, 0; i < len(lines); i = next {
		next = i + 1
		if line := strings.TrimSpace(lines[i]); line == "" || line[0] == '#' {
			continue
		}
		var name, value string
		if match := assignmentStart.FindStringSubmatch(lines[i]); match != nil {
			name, value = match[1], match[2]
		}
		next += continuation(value, lines[next:])
		a := assignment{line: i + 1, name: name, text: strings.Join(lines[i:next], "\n")}
		a.fault = a.check(value)
		all = append(all, a)
	}
	return all, nil
}

// check returns why an assignment can't be read. value is the value in its first line.
func (a assignment) check(value string) (fault string) {
	values, err := godotenv.Unmarshal(a.text)
	_, assigned := values[a.name]
	switch {
	case err == nil && assigned && len(values) == 1:
		return ""
	case value == "":
		return text("NAME=VALUE is expected")
	default:
		return text("a quote is not closed, or something follows the value")
	}
}

// join returns the values of assignments that can be read, quoted, escaped and expanded as godotenv does it: a value may
// refer to one before it.
func join(readable []assignment) map[string]string {
	var b strings.Builder
	for _, a := range readable {
		b.WriteString(a.text + "\n")
	}
	values, _ := godotenv.Unmarshal(b.String()) // each can be read alone
	return values
}

// continuation is how many of the lines that follow belong to a value: those up to the quote that closes it. A quote that
// is closed nowhere, or only below a setting, is a mistake in one line.
func continuation(value string, following []string) int {
	if value == "" || !strings.Contains(`"'`, value[:1]) || closes(value[1:], value[0]) {
		return 0
	}
	for n, line := range following {
		if match := assignmentStart.FindStringSubmatch(line); match != nil && isSetting(match[1]) {
			return 0
		}
		if closes(line, value[0]) {
			return n + 1
		}
	}
	return 0
}

// closes tells whether a text has a quote that no backslash precedes.
func closes(text string, quote byte) bool {
	for i := range len(text) {
		if text[i] == quote && (i == 0 || text[i-1] != '\\') {
			return true
		}
	}
	return false
}
