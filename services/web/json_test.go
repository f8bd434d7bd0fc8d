package web

import (
	"errors"
	"net/http"
	"strings"
	"testing"
)

// Inputs of which each was stored in another form before, or in one of two possible ones.
var ambiguousJSON = []string{
	"{\"a\":\"\xf1\"}", // Latin-1
	"{\"\xf1\":1}",
	"{\"a\":\"\xed\xa0\x80\"}", // a surrogate as UTF-8
	"{\"a\":\"\xc0\xaf\"}",     // a slash in two bytes
	`{"a":"\ud800"}`, `{"a":"\udc00"}`, `{"a":"\udc00\ud800"}`, `{"a":"\ud800x"}`, `{"a":"\ud800\n"}`, `{"a":"\ud800\\udc00"}`,
	`{"\ud83d":1}`, `{"a":["\uDBFF\u0041"]}`, `{"a":"\\\ud800"}`,
	`{"a":"\u0000"}`, `{"\u0000":1}`,
	`{"a":1,"a":1}`, `{"a":1,"\u0061":2}`, `{"a":1,"A":2}`, `{"k":1,"\u212a":2}`, `{"b":[{"a":{},"a":[]}]}`,
	`{"a":1}{}`, `{"a":1}]`, `{"a":1`, `{"a":}`, `{"a" 1}`, ``, `{"a":01}`, `{"a":0x1}`, `{"a":NaN}`, "{\"a\":\"\x00\"}", `[`, `{"a":"\u12"}`,
}

func TestDecodeJSON(t *testing.T) {
	for _, text := range ambiguousJSON {
		var value any
		err := decodeJSON([]byte(text), &value)
		if e, ok := errors.AsType[*httpError](err); !ok || e.status != http.StatusBadRequest {
			t.Errorf("%q: %v, read as %v", text, err, value)
		}
	}
	for text, want := range map[string]string{
		`{"a":"\ud83d\ude00"}`: "😀", `{"a":"😀"}`: "😀", `{"a":"\\ud800"}`: `\ud800`, `{"a":"\\\\\u00f1"}`: `\\ñ`,
		`{"a":"\ufffd"}`: "\ufffd", `{"b":{"a":1},"c":[{"a":1},{"a":2}],"a":"x"}`: "x", ` {"a":"x","b":"a"} `: "x",
		`{"a":"\uD800\uDC00"}`: "\U00010000",
	} {
		var value struct{ A string }
		if err := decodeJSON([]byte(text), &value); err != nil || value.A != want {
			t.Errorf("%q: %q %v, want %q", text, value.A, err, want)
		}
	}
	var text struct{ A string }
	if err := decodeJSON([]byte(`{"a":1}`), &text); err == nil {
		t.Error("a number was read as a text")
	}
	if err := decodeJSON([]byte(strings.Repeat("[", 60_000)), new(any)); err == nil {
		t.Error("60,000 open brackets are JSON")
	}
}

// FuzzDecodeJSON looks for inputs that panic, and for texts that are not stored as they came.
func FuzzDecodeJSON(f *testing.F) {
	for _, text := range ambiguousJSON {
		f.Add([]byte(text))
	}
	f.Add([]byte(`{"nombre":"\ud83d\ude00","precio":1.5e3,"foto":"https://example.org/a.png"}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		var value map[string]any
		if decodeJSON(data, &value) != nil {
			return
		}
		written := strings.Count(strings.ToLower(string(data)), `\ufffd`) + strings.Count(string(data), "\ufffd")
		var read func(value any) int
		read = func(value any) (n int) {
			switch value := value.(type) {
			case string:
				return strings.Count(value, "\ufffd")
			case []any:
				for _, v := range value {
					n += read(v)
				}
			case map[string]any:
				for k, v := range value {
					n += read(k) + read(v)
				}
			}
			return n
		}
		if n := read(value); n > written {
			t.Errorf("%q: %d replaced characters, %d were written", data, n, written)
		}
	})
}
