package main

import (
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"unicode/utf8"

	"balanza/services/workers/control"
)

// This file decides which part of a server's environment save may keep. Values that may be secrets are never told to
// another process; their names are.

// sessionVariable matches names of variables that belong to a terminal, a log-in or a service manager, and not to a server:
// where it is started again it gets its own.
var sessionVariable = regexp.MustCompile(`^(_|TERM|TERM_.*|COLORTERM|COLUMNS|LINES|SHELL|SHLVL|PS[0-9]|PROMPT_COMMAND|HIST.*|` +
	`PWD|OLDPWD|HOME|USER|LOGNAME|MAIL|HOSTNAME|EDITOR|VISUAL|PAGER|LESS.*|LS_COLORS|TMUX.*|STY|WINDOW.*|DISPLAY|WAYLAND_.*|` +
	`XAUTHORITY|SSH_.*|SUDO_.*|DBUS_.*|XDG_(SESSION|RUNTIME|SEAT|VTNR|CURRENT|MENU|GREETER).*|INVOCATION_ID|JOURNAL_STREAM|` +
	`MANAGERPID|MAINPID|SYSTEMD_.*|NOTIFY_SOCKET|WATCHDOG_.*|LISTEN_.*|BALANZA_HOME|BALANZA_LOG_FORMAT|` + backgroundVariable + `)$`)

// Names and values that may be secrets. More is taken for one than is: a value that is not kept is named, one that is kept
// may be read by whoever reads a backup.
var (
	secretName  = regexp.MustCompile(`(?i)SECRET|TOKEN|PASS|PWD|KEY|CRED|AUTH|PRIVATE|COOKIE|SESSION|SALT|CERT|JWT|WEBHOOK|LICEN[CS]E`)
	addressName = regexp.MustCompile(`(?i)(URI|URL|DSN|CONNECTION|CONNECTION_STRING)$`)
	secretValue = regexp.MustCompile(`://[^/]*@|PRIVATE KEY|^[A-Za-z0-9+_=.-][A-Za-z0-9+/_=.-]{23,}$`)
)

// maySecret tells whether a variable's value may be a secret. The path of a file that holds one is none.
func maySecret(name, value string) bool {
	switch {
	case !utf8.ValidString(value): // JSON could not keep it
		return true
	case filepath.IsAbs(value) && (strings.HasSuffix(name, "FILE") || exists(value)):
		return false
	case strings.HasPrefix(name, prefix+"_"):
		return secretName.MatchString(name) && name != cookieVariable
	}
	return name != "PATH" && (secretName.MatchString(name) || addressName.MatchString(name) || secretValue.MatchString(value))
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

// cookieVariable is a setting with a public name, though it looks like a secret's.
const cookieVariable = prefix + "_COOKIE"

// The settings that say which store the site has.
const (
	mongoVariable = "MONGODB_URI"
	dataVariable  = prefix + "_DATA"
)

// origin describes the environment of the servers of this process. The site has its settings and one store; any other
// program reads what it wants, except those settings.
func (p *program) origin(s *settings, site bool) *control.Origin {
	o := &control.Origin{Environment: map[string]string{}, Stores: map[string]string{}}
	for name, value := range variables(p.environment) {
		secret := maySecret(name, value)
		switch {
		case sessionVariable.MatchString(name), value == "", secret && isSetting(name) != site:
		case !secret:
			o.Environment[name] = value
		default:
			o.Unsaved = append(o.Unsaved, name)
			if address, isStore := storeAddress(name, value); isStore {
				o.Stores[name] = address
			}
		}
	}
	slices.Sort(o.Unsaved)
	switch {
	case !site || s.Mode == edgeMode: // the balancer has none
	case s.MongoURI != "":
		o.Stores[mongoVariable], _ = storeAddress(mongoVariable, s.MongoURI) // .env may have it
	default:
		o.Stores[dataVariable] = s.Data
	}
	return o
}

// plainAddress matches a scheme, hosts and the first part of a path: nothing in which a password could be.
var plainAddress = regexp.MustCompile(`^[a-z][a-z0-9+.-]*://` + databaseHost + `(?:,` + databaseHost + `)*(?:/[^/]*|$)`)

const databaseHost = `(?:\[[0-9A-Fa-f:.%]+\]|[A-Za-z0-9._-]+)(?::[0-9]+)?`

// storeAddress tells whether a variable names a database, and its address without users, passwords and options, as far as
// that can be told; else it is empty.
func storeAddress(name, value string) (address string, isStore bool) {
	scheme, rest, isURL := strings.Cut(value, "://")
	if !isURL || scheme == "http" || scheme == "https" {
		return "", !isURL && addressName.MatchString(name)
	}
	rest, _, _ = strings.Cut(rest, "?")
	rest, _, _ = strings.Cut(rest, "#")
	return plainAddress.FindString(scheme + "://" + rest[strings.LastIndexByte(rest, '@')+1:]), true
}

// variables makes a map of an environment. The last of several values of a name counts, as for exec.Cmd.
func variables(environment []string) map[string]string {
	all := map[string]string{}
	for _, variable := range environment {
		name, value, _ := strings.Cut(variable, "=")
		all[name] = value
	}
	return all
}

// withDotEnv adds the settings in .env of a folder to an environment, which wins. One that can't be read is a matter of the
// server that reads it.
func withDotEnv(environment map[string]string, dir string) map[string]string {
	content, _ := os.ReadFile(filepath.Join(dir, dotEnv))
	file, _, _ := parseDotEnv(content)
	for name, value := range file {
		if _, ok := environment[name]; !ok {
			environment[name] = value
		}
	}
	return environment
}
