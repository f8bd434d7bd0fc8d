package watch

import (
	"fmt"
	"slices"
	"strings"

	"github.com/bmatcuk/doublestar/v4"
)

// GoSource are the patterns of Ignore that leave a Go program's code and what it may embed. Tests are ignored: a save of one
// changes no process.
var GoSource = []string{
	"*", "!*/", "!*.go", "!*.mod", "!*.sum", "!*.html", "!*.css", "!*.js", "!*.json", "!*.svg", "!*.txt", "!*.tmpl", "!*.ico",
	"*_test.go", "testdata/", "data/", "logs/", "node_modules/", "coverage/", ".*",
}

// AnySource are the patterns of Ignore for a program of any language. They leave all but packages of others, what tools
// generate, and the files of editors, logs and databases, which a running program changes itself. 4913 is the file by
// which Vim tests whether a folder is writable.
var AnySource = []string{
	".*", "node_modules/", "vendor/", "coverage/", "__pycache__/", "data/", "logs/",
	"*.log", "*.pid", "*.sock", "*.tmp", "*.swp", "*.swx", "*~", `\#*`, "4913",
	"*.db", "*.sqlite", "*.sqlite3", "*-wal", "*-shm", "*-journal",
}

// rules are the patterns of gitignore(5) that apply in a folder. The last one that matches a path decides. A walk that does
// not enter ignored folders gives them git's meaning: what is below an ignored folder can't be included again.
type rules []rule

type rule struct {
	dir      string // paths below this folder are matched, relative to it; empty or with a slash at its end
	glob     string
	nameOnly bool   // the glob is matched with the last element of the path
	literal  string // the end of the glob, without special characters: a short cut, since each file meets all patterns
	folder   bool   // only folders match
	include  bool   // the pattern began with !
}

// parseRules reads lines of patterns, as of a .gitignore file in dir. It skips patterns that can't be read; the error
// names the first of them.
func parseRules(lines, dir string) (r rules, err error) {
	for line := range strings.Lines(strings.TrimPrefix(lines, "\ufeff")) {
		line = strings.TrimSuffix(strings.TrimSuffix(line, "\n"), "\r")
		for strings.HasSuffix(line, " ") && !strings.HasSuffix(line, `\ `) {
			line = line[:len(line)-1]
		}
		if line == "" || line[0] == '#' {
			continue
		}
		parsed := rule{dir: dir}
		glob, include := strings.CutPrefix(line, "!")
		glob, parsed.folder = strings.CutSuffix(glob, "/")
		parsed.include = include
		parsed.nameOnly = !strings.Contains(glob, "/")
		glob = strings.TrimPrefix(glob, "/")
		if parsed.nameOnly && glob == "**" {
			glob = "*"
		} else if glob == "**" || strings.HasSuffix(glob, "/**") {
			glob += "/*" // everything below the folder, and not the folder, which ** of the library matches too
		}
		parsed.glob = escapeBraces(posixClasses.Replace(glob))
		parsed.literal = parsed.glob[strings.LastIndexAny(parsed.glob, `/*?[]\{}`)+1:]
		if glob != "" && doublestar.ValidatePattern(parsed.glob) {
			r = append(r, parsed)
		} else if err == nil {
			err = fmt.Errorf("%q is no pattern of gitignore", line)
		}
	}
	return r, err
}

// posixClasses writes out the named classes of characters, which the library does not know.
var posixClasses = strings.NewReplacer("[:alpha:]", "a-zA-Z", "[:digit:]", "0-9", "[:alnum:]", "a-zA-Z0-9", "[:upper:]", "A-Z",
	"[:lower:]", "a-z", "[:xdigit:]", "0-9a-fA-F", "[:space:]", " \t", "[:blank:]", " \t")

// escapeBraces makes braces ordinary characters, which they are for git, and not for the library.
func escapeBraces(glob string) string {
	var b strings.Builder
	for i := 0; i < len(glob); i++ {
		switch glob[i] {
		case '\\':
			if i+1 < len(glob) {
				b.WriteByte(glob[i])
				i++
			}
		case '{', '}':
			b.WriteByte('\\')
		}
		b.WriteByte(glob[i])
	}
	return b.String()
}

// match reports whether a pattern matches the path, which has slashes, and what the last of these patterns says.
func (r rules) match(path string, folder bool) (ignored, matched bool) {
	for _, rule := range slices.Backward(r) {
		if !strings.HasSuffix(path, rule.literal) {
			continue
		}
		rest, below := strings.CutPrefix(path, rule.dir)
		if !below || rule.folder && !folder {
			continue
		}
		if rule.nameOnly {
			rest = rest[strings.LastIndexByte(rest, '/')+1:]
		}
		if doublestar.MatchUnvalidated(rule.glob, rest) {
			return !rule.include, true
		}
	}
	return false, false
}

// CheckPattern returns an error unless the line is a pattern of gitignore(5), and neither blank nor a comment.
func CheckPattern(line string) error {
	r, err := parseRules(line, "")
	if err == nil && len(r) != 1 {
		err = fmt.Errorf("%q is no pattern of gitignore", line)
	}
	return err
}
