package main

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"regexp"
	"strings"
	"syscall"

	"github.com/joho/godotenv"
)

// dotEnv is the file of settings in the working folder. Other tools read it too (Compose, frameworks), so it may hold lines
// that mean nothing here.
const dotEnv = ".env"

// loadDotEnv puts the settings of .env into the environment, which wins. Variables that are no settings of Balanza stay out
// of the environment, and lines that can't be read are an error only where they name a setting.
func loadDotEnv() error {
	content, err := os.ReadFile(dotEnv)
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.EISDIR) { // python3 -m venv .env makes a folder
		return nil
	}
	if err != nil {
		return err
	}
	values, err := parseDotEnv(content)
	if err != nil {
		return err
	}
	for name, value := range values {
		if _, ok := os.LookupEnv(name); ok {
			continue
		}
		if err := os.Setenv(name, value); err != nil {
			return fmt.Errorf("%s: %s: %w", dotEnv, name, err)
		}
	}
	return nil
}

// dotEnvLine is the begin of a line that may assign a variable: its name, and its value as it is written.
var dotEnvLine = regexp.MustCompile(`^[ \t]*(?:export[ \t]+)?([A-Za-z_][A-Za-z0-9_.]*)[ \t]*(?:[=:][ \t]*(.*))?`)

// parseDotEnv returns the settings in the text of a .env file. Values are quoted, escaped and expanded as godotenv does it.
// A line that godotenv can't read makes it reject the whole file, so that each variable is tried alone first.
func parseDotEnv(content []byte) (map[string]string, error) {
	if bytes.HasPrefix(content, []byte("\xff\xfe")) || bytes.HasPrefix(content, []byte("\xfe\xff")) {
		return nil, errorf("%s is UTF-16; save it as UTF-8", dotEnv)
	}
	text := strings.TrimPrefix(strings.ReplaceAll(string(content), "\r\n", "\n"), "\ufeff")
	lines := strings.Split(text, "\n")
	var readable strings.Builder
	for i, next := 0, 0; i < len(lines); i = next {
		next = i + 1
		match := dotEnvLine.FindStringSubmatch(lines[i])
		if match == nil {
			continue
		}
		name := match[1]
		next += continuation(match[2], lines[next:])
		variable := strings.Join(lines[i:next], "\n")
		values, err := godotenv.Unmarshal(variable)
		if _, ok := values[name]; err == nil && ok && len(values) == 1 {
			readable.WriteString(variable + "\n")
		} else if isSetting(name) { // godotenv's error quotes the value, which may be a secret
			return nil, errorf("%s, line %d: %s can't be read; NAME=VALUE is expected, with quotes closed", dotEnv, i+1, name)
		}
	}
	values, err := godotenv.Unmarshal(readable.String()) // once more together: a value may refer to one before it
	if err != nil {
		return nil, fmt.Errorf("%s: %w", dotEnv, err)
	}
	for name := range values {
		if !isSetting(name) {
			delete(values, name)
		}
	}
	return values, nil
}

// continuation is how many of the lines that follow belong to a value: those up to the quote that closes it. A quote that
// is closed nowhere, or only below a setting, is a mistake in one line.
func continuation(value string, following []string) int {
	if value == "" || !strings.Contains(`"'`, value[:1]) || closes(value[1:], value[0]) {
		return 0
	}
	for n, line := range following {
		if match := dotEnvLine.FindStringSubmatch(line); match != nil && isSetting(match[1]) {
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
