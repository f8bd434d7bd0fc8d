package main

import (
	"encoding/json"
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

// allCommands returns the command tree in English, the root included.
func allCommands() (root *cobra.Command, all []*cobra.Command) {
	root = new(program).root()
	return root, append(root.Commands(), root)
}

// englishTexts collects every text for people: of commands and flags, of the templates, and of the functions that
// translate.
func englishTexts(t *testing.T) map[string]bool {
	t.Helper()
	texts := map[string]bool{}
	root, commands := allCommands()
	for _, group := range root.Groups() {
		texts[group.Title] = true
	}
	for _, c := range commands {
		for _, text := range []string{c.Short, c.Long} {
			texts[text] = true
		}
		c.Flags().VisitAll(func(f *pflag.Flag) { texts[f.Usage] = true })
	}
	templates, err := filepath.Glob("texts/*.tmpl")
	if err != nil {
		t.Fatal(err)
	}
	call := regexp.MustCompile(`text ("(?:[^"\\]|\\.)*")`)
	for _, path := range templates {
		content, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		for _, found := range call.FindAllStringSubmatch(string(content), -1) {
			texts[unquote(t, found[1])] = true
		}
	}
	sources, err := filepath.Glob("*.go")
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range slices.DeleteFunc(sources, func(path string) bool { return strings.HasSuffix(path, "_test.go") }) {
		file, err := parser.ParseFile(token.NewFileSet(), path, nil, 0)
		if err != nil {
			t.Fatal(err)
		}
		ast.Inspect(file, func(n ast.Node) bool {
			if call, ok := n.(*ast.CallExpr); ok {
				var name string
				switch f := call.Fun.(type) {
				case *ast.Ident:
					name = f.Name
				case *ast.SelectorExpr:
					name = f.Sel.Name
				}
				if slices.Contains([]string{"text", "errorf", "usagef", "printf"}, name) {
					if literal, ok := call.Args[0].(*ast.BasicLit); ok {
						texts[unquote(t, literal.Value)] = true
					}
				}
			}
			return true
		})
	}
	delete(texts, "")
	return texts
}

func unquote(t *testing.T, literal string) string {
	t.Helper()
	text, err := strconv.Unquote(literal)
	if err != nil {
		t.Fatal(err)
	}
	return text
}

var verb = regexp.MustCompile(`%(\[\d\])?[-+.0-9]*[a-z]`)

func TestEveryTextHasATranslation(t *testing.T) {
	content, err := texts.ReadFile("texts/es.json")
	if err != nil {
		t.Fatal(err)
	}
	var spanish map[string]string
	if err := json.Unmarshal(content, &spanish); err != nil {
		t.Fatal(err)
	}
	english := englishTexts(t)
	for text := range english {
		translated, ok := spanish[text]
		if !ok {
			t.Errorf("no translation: %q", text)
		} else if !slices.Equal(verb.FindAllString(text, -1), verb.FindAllString(translated, -1)) {
			t.Errorf("%q and %q have different verbs", text, translated)
		}
	}
	// Usage lines and examples are translated where they hold words.
	_, commands := allCommands()
	for _, c := range commands {
		english[c.Use], english[c.Example] = true, true
		if translated := spanish[c.Use]; translated != "" && strings.Fields(translated)[0] != strings.Fields(c.Use)[0] {
			t.Errorf("the translation %q gives the command %q another name", translated, c.Use)
		}
	}
	for text := range spanish {
		if !english[text] {
			t.Errorf("a translation of nothing: %q", text)
		}
	}
}

func TestHelpIsInTheLanguageOfTheUser(t *testing.T) {
	t.Parallel()
	h := newHome(t)
	for locale, want := range map[string]string{
		"LANG=es_AR.UTF-8": "los servidores y sus procesos", "LC_MESSAGES=es": "los servidores y sus procesos",
		"LANG=en_US.UTF-8": "the servers and their processes", "LANG=C": "the servers and their processes",
		"LANG=est": "the servers and their processes",
	} {
		cmd := h.command("--help")
		cmd.Env = append(cmd.Env, "LC_ALL=", "LC_MESSAGES=", locale)
		if out, err := cmd.Output(); err != nil || !strings.Contains(string(out), want) {
			t.Errorf("%s: %v, help lacks %q:\n%s", locale, err, want, out)
		}
	}
	cmd := h.command("--p", "abc")
	cmd.Env = append(cmd.Env, "LC_ALL=es_ES.UTF-8")
	if out, err := cmd.CombinedOutput(); err == nil || !strings.Contains(string(out), "un puerto es un número entero") {
		t.Errorf("%v: %s", err, out)
	}
}
