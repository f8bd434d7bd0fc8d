package web

import (
	"embed"
	"encoding/json"
	"fmt"
	"io/fs"
	"path"
	"strings"
)

//go:embed texts/*.json
var textFiles embed.FS

// texts are the sentences of one language by key, in the formats of package fmt. Both languages have the same keys; a
// test checks it.
type texts map[string]string

// loadTexts reads every file of texts/; a file's name starts with its language: es.json, es.errors.json.
func loadTexts() map[string]texts {
	languages := map[string]texts{"es": {}, "en": {}}
	for file, content := range embedded(textFiles) {
		language, _, _ := strings.Cut(path.Base(file), ".")
		sentences := languages[language]
		if err := json.Unmarshal(content, &sentences); err != nil {
			panic(err)
		}
	}
	return languages
}

// embedded returns the contents of the files of an embedded folder by path, as folder/name.
func embedded(files embed.FS) map[string][]byte {
	contents := make(map[string][]byte)
	for _, file := range must(fs.Glob(files, "*/*")) {
		contents[file] = must(files.ReadFile(file))
	}
	return contents
}

// must returns value, or panics with err. It is for values made of embedded files: an error is a fault of the build,
// which every test shows.
func must[T any](value T, err error) T {
	if err != nil {
		panic(err)
	}
	return value
}

// format returns the text of a key, or the key where there is none.
func (t texts) format(key string, args ...any) string {
	text, ok := t[key]
	switch {
	case !ok:
		return key
	case len(args) == 0:
		return text
	}
	return fmt.Sprintf(text, args...)
}
