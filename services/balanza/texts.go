package main

import (
	"embed"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"regexp"
	"strings"
	"sync"
	"text/tabwriter"
	"text/template"

	"github.com/spf13/pflag"
)

// texts holds the translations, and the templates of what has a layout.
//
//go:embed texts
var texts embed.FS

// spanishLocale matches names of locales like es, es_AR.UTF-8 and es@euro, and not est.
var spanishLocale = regexp.MustCompile(`^es($|[_.@])`)

// translations holds the texts of the user's language by the English ones: Spanish where the first of LC_ALL,
// LC_MESSAGES and LANG that is set says es, and none otherwise.
var translations = sync.OnceValue(func() (byEnglish map[string]string) {
	for _, variable := range []string{"LC_ALL", "LC_MESSAGES", "LANG"} {
		locale := os.Getenv(variable)
		if locale != "" && !spanishLocale.MatchString(locale) {
			break
		}
		if locale != "" {
			content, _ := texts.ReadFile("texts/es.json")
			_ = json.Unmarshal(content, &byEnglish) // a test reads it too
			break
		}
	}
	return byEnglish
})

// text returns a text for people in the user's language; one without a translation stays English. The English text is the
// key, so that the code reads as it speaks. Logs, JSON and errors of the other packages are English always.
func text(english string) string {
	if translated, ok := translations()[english]; ok {
		return translated
	}
	return english
}

// errorf is fmt.Errorf in the user's language.
func errorf(format string, args ...any) error { return fmt.Errorf(text(format), args...) }

// printf writes to standard output in the user's language.
func (p *program) printf(format string, args ...any) { fmt.Fprintf(p.out, text(format), args...) }

// templates are parsed at their first use: a worker needs none of them.
var templates = sync.OnceValue(func() *template.Template {
	functions := template.FuncMap{
		"text": text, "age": age, "percent": percent, "mebibytes": mebibytes, "yesNo": yesNo,
		"url": shownURL, "allInterfaces": allInterfaces,
		"percents": percents, "quoted": quoted, "executable": executable,
		"flags": func(f *pflag.FlagSet) string { // pflag's word for a default is English
			return strings.ReplaceAll(f.FlagUsages(), "(default ", "("+text("default")+" ")
		},
	}
	return template.Must(template.New("").Funcs(functions).ParseFS(texts, "texts/*.tmpl"))
})

// render executes a template; cells that it separates by tabs are aligned.
func render(to io.Writer, name string, data any) error {
	t := tabwriter.NewWriter(to, 0, 0, 2, ' ', 0)
	if err := templates().ExecuteTemplate(t, name, data); err != nil {
		return err
	}
	return t.Flush()
}
