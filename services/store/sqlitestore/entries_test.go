package sqlitestore

import (
	"path/filepath"
	"strings"
	"testing"

	"balanza/services/store"
)

// A message takes about as many bytes as its text and its author's profile have, whatever their characters.
func TestBytesOfAMessage(t *testing.T) {
	s, err := Open(t.Context(), filepath.Join(t.TempDir(), "balanza.db"))
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	author := store.Author{ID: "ana@example.org", Avatar: "https://example.org/?" + strings.Repeat("&", 2000)}
	_, err = s.Append(t.Context(), []store.Entry{{Kind: store.MessagePosted, Author: author.ID, ClientID: "1",
		Message: &store.Message{Author: author, Text: strings.Repeat("<", 1000)}}})
	if err != nil {
		t.Fatal(err)
	}
	var bytes int
	if err := s.(*database).readRow(t.Context(), `SELECT octet_length(message) FROM entries`, nil, &bytes); err != nil {
		t.Fatal(err)
	}
	if bytes > 3500 {
		t.Errorf("%d bytes", bytes)
	}
}
