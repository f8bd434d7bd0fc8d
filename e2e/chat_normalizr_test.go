package e2e

import (
	"bytes"
	"encoding/json"
	"errors"
	"testing"
	"time"

	"balanza/e2e/normalizr"
)

// What the server tells a page, the real normalizr denormalises into what was said, and normalises what was said into it.
func TestServersPayloadAgainstNormalizr(t *testing.T) {
	npm := normalizr.Install(t)
	s := serve(t, t.TempDir(), "--m", "CLUSTER", "-i", "2")
	ana, beto := newUser(t, s.url, "ana"), newUser(t, s.url, "beto")
	here, there := openPage(t, ana, 0, s.url), openPage(t, beto, 0, s.url)
	var messages []normalizr.Message
	for i, text := range []string{"hola, ¿qué tal?", "</script><script>alert(1)</script>", "🙂 \"quoted\" \\ \n two lines", "__proto__"} {
		speaker := here
		if i%2 == 1 {
			speaker = there
		}
		speaker.say(text)
		here.awaitShown(t, i+1)
		there.awaitShown(t, i+1)
		messages = append(messages, normalizr.Message{ID: speaker.acked[text], Author: speaker.user.author, Text: text})
	}

	var payload json.RawMessage
	eventually(t, "all messages in one frame", func() (err error) {
		payload, err = firstFrame(t, ana, s.url)
		if err == nil && bytes.Count(payload, []byte(`"fecha"`)) < len(messages) {
			err = errors.New("the process has not heard of all yet")
		}
		return err
	})
	for i, m := range messages {
		when := here.shown[m.ID].Time
		if age := time.Since(when); age < 0 || age > time.Minute {
			t.Errorf("message %d was said at %v", m.ID, when)
		}
		messages[i].Time = when
	}
	npm.Compare(t, payload, messages)
}

// firstFrame is the payload that a page gets that has nothing.
func firstFrame(t *testing.T, u *user, site string) (json.RawMessage, error) {
	conn, _, err := u.dial(t.Context(), site, 0)
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	var frame struct{ Normalised json.RawMessage }
	err = conn.ReadJSON(&frame)
	return frame.Normalised, err
}
