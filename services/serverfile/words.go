package serverfile

import (
	"errors"
	"fmt"
	"regexp"
	"strings"
)

// shellHint ends the errors of commands that ask for what only a shell does.
const shellHint = `quote it, or use a shell: ["sh", "-c", "…"]`

// portName is what makes a reference to the port after a $: see instance.Config.Command.
var portName = regexp.MustCompile(`^(PORT\b|\{PORT\})`)

var assignment = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_]*=`)

// splitWords splits a command line into words as a POSIX shell does: at blanks, with ”, "" and \ for quoting. No shell
// runs, so what a shell would act on is an error, but for $PORT, which `balanza run` replaces.
func splitWords(line string) (words []string, err error) {
	var word strings.Builder
	begun, quote := false, rune(0) // begun: a word, though perhaps an empty one as in ''
	runes := []rune(line)
	for i := 0; i < len(runes); i++ {
		c := runes[i]
		blank := quote == 0 && strings.ContainsRune(" \t\n", c)
		switch {
		case blank && begun:
			words = append(words, word.String())
			word.Reset()
			begun = false
		case blank:
		case quote != 0 && c == quote:
			quote = 0
		case quote == '\'':
			word.WriteRune(c)
		case c == '\\':
			i++
			if i == len(runes) {
				return nil, errors.New(`the command ends with \`)
			}
			if quote == '"' && !strings.ContainsRune("\\\"$`\n", runes[i]) {
				word.WriteByte('\\') // between double quotes it is a character like others before most
			}
			if runes[i] != '\n' {
				word.WriteRune(runes[i])
			}
			begun = true
		case c == '$' && portName.MatchString(string(runes[i+1:])), quote == 0 && c == '$' && i+1 == len(runes):
			word.WriteRune(c)
			begun = true
		case c == '$' || c == '`':
			return nil, fmt.Errorf("%q has a meaning for a shell, and no shell runs: %s", c, shellHint)
		case quote == '"':
			word.WriteRune(c)
		case c == '\'' || c == '"':
			quote, begun = c, true
		case strings.ContainsRune("|&;<>()*?[", c), !begun && (c == '#' || c == '~'):
			return nil, fmt.Errorf("%q has a meaning for a shell, and no shell runs: %s", c, shellHint)
		case len(words) == 0 && c == '=' && assignment.MatchString(word.String()+"="):
			return nil, fmt.Errorf("%s=… before the program is a shell's: use env", word.String())
		default:
			word.WriteRune(c)
			begun = true
		}
	}
	if quote != 0 {
		return nil, fmt.Errorf("the quote %c is not closed", quote)
	}
	if begun {
		words = append(words, word.String())
	}
	return words, nil
}
