package store

import "testing"

func TestNormalEmail(t *testing.T) {
	for given, want := range map[string]string{
		" Ana@Example.ORG\t": "ana@example.org", "ÑANDÚ@x.es": "ñandú@x.es", "ana@example.org": "ana@example.org", "": "",
	} {
		if got := NormalEmail(given); got != want {
			t.Errorf("%q: got %q, want %q", given, got, want)
		}
	}
}
