package web

import (
	"embed"
	"encoding/json"
	"fmt"
	"path"
	"strings"
)

//go:embed texts/*.json
var textFiles embed.FS

// texts are the sentences of one language by key, in the formats of package fmt.
type texts map[string]string

// loadTexts reads every file of texts/; a file's name starts with its language: es.json, es.errors.json.
func loadTexts() (map[string]texts, error) {
	files, err := textFiles.ReadDir("texts")
	if err != nil {
		return nil, err
	}
	languages := map[string]texts{"es": {}, "en": {}}
	for _, file := range files {
		language, _, _ := strings.Cut(file.Name(), ".")
		content, err := textFiles.ReadFile(path.Join("texts", file.Name()))
		if err != nil {
			return nil, err
		}
		sentences := languages[language]
		if err := json.Unmarshal(content, &sentences); err != nil {
			return nil, fmt.Errorf("texts/%s: %w", file.Name(), err)
		}
	}
	return languages, nil
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
