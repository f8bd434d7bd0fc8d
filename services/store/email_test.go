package store

import "testing"

func TestNormalEmail(t *testing.T) {
	for given, want := range map[string]string{
		" Ana@Example.ORG\t": "ana@example.org", "ÑANDÚ@x.es": "ñandú@x.es", "ana@example.org": "ana@example.org", "": "",
		"jose\u0301@x.es": "josé@x.es", "JOSE\u0301@X.ES": "josé@x.es", "n\u0303andu\u0301@x.es": "ñandú@x.es",
	} {
		if got := NormalEmail(given); got != want {
			t.Errorf("%q: got %q, want %q", given, got, want)
		}
		if twice := NormalEmail(want); twice != want {
			t.Errorf("%q is not the normal form of itself: %q", want, twice)
		}
	}
}
