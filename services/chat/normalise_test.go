package chat

import (
	"encoding/json"
	"testing"
	"time"

	"balanza/e2e/normalizr"
	"balanza/services/store"
)

// conversation returns log entries, and the same messages denormalised.
func conversation() (entries []store.Entry, messages []normalizr.Message) {
	at := time.Date(2026, 11, 22, 21, 5, 0, 120e6, time.UTC)
	messages = []normalizr.Message{
		{ID: 9, Author: ana, Text: "hola, ¿qué tal?", Time: at},
		{ID: 10, Author: beto, Text: "</script><script>alert(1)</script>\u2028", Time: at.Add(time.Second)},
		{ID: 12, Author: ana, Text: "🙂 \"quoted\" \\ \n", Time: at.Add(1500 * time.Millisecond)},
		{ID: 101, Author: ana, Text: "__proto__", Time: at.Add(time.Minute)},
	}
	for _, m := range messages {
		entries = append(entries, store.Entry{N: m.ID, Kind: store.MessagePosted,
			Message: &store.Message{Author: m.Author, Text: m.Text, Time: m.Time}})
	}
	return entries, messages
}

func TestNormalise(t *testing.T) {
	older := ana
	older.Alias = "before"
	at := time.Date(2026, 11, 22, 21, 5, 0, 0, time.FixedZone("", -3*3600))
	for _, c := range []struct {
		name    string
		entries []store.Entry
		want    string
	}{
		{"no entries", nil, `{"result":"mensajes","entities":{"chats":{"mensajes":{"id":"mensajes","mensajes":[]}}}}`},
		{"no message among the entries", []store.Entry{{N: 1, Kind: store.LoggedOut, Subject: "s"}},
			`{"result":"mensajes","entities":{"chats":{"mensajes":{"id":"mensajes","mensajes":[]}}}}`},
		{"the author of the last message is used", []store.Entry{
			{N: 2, Kind: store.MessagePosted, Message: &store.Message{Author: older, Text: "a", Time: at}},
			{N: 4, Kind: store.MessagePosted, Message: &store.Message{Author: ana, Text: "b", Time: at}},
		}, `{"result":"mensajes","entities":{
			"authors":{"ana@example.com":{"id":"ana@example.com","nombre":"Ana","apellido":"Díaz","edad":31,"alias":"anita",
				"avatar":"https://example.com/a.png"}},
			"messages":{
				"2":{"id":2,"author":"ana@example.com","text":"a","fecha":"2026-11-23T00:05:00Z"},
				"4":{"id":4,"author":"ana@example.com","text":"b","fecha":"2026-11-23T00:05:00Z"}},
			"chats":{"mensajes":{"id":"mensajes","mensajes":[2,4]}}}}`},
	} {
		normalizr.EqualJSON(t, c.name, Normalise(c.entries), json.RawMessage(c.want))
	}
}

// The npm package normalizr denormalises Normalise's payload into the messages, and normalises the messages into the payload.
func TestNormaliseAgainstNormalizr(t *testing.T) {
	n := normalizr.Install(t)
	entries, messages := conversation()
	for name, count := range map[string]int{"no message": 0, "one message": 1, "a conversation": len(messages)} {
		t.Run(name, func(t *testing.T) {
			n.Compare(t, Normalise(entries[:count]), messages[:count])
		})
	}
}
