package e2e

import (
	"bytes"
	"encoding/json"
	"errors"
	"testing"
	"time"

	"balanza/e2e/normalizr"
)

// The npm package normalizr denormalises the payload of a page into the messages sent, and normalises these into the payload.
func TestChatPayloadAgainstNormalizr(t *testing.T) {
	npm := normalizr.Install(t)
	s := serve(t, t.TempDir(), "--m", "CLUSTER", "-i", "2")
	ana, beto := newUser(t, s.url, "ana"), newUser(t, s.url, "beto")
	anasPage, betosPage := openPage(t, ana, 0, s.url), openPage(t, beto, 0, s.url)
	var messages []normalizr.Message
	for i, text := range []string{"hola, ¿qué tal?", "</script><script>alert(1)</script>", "🙂 \"quoted\" \\ \n two lines", "__proto__"} {
		sender := anasPage
		if i%2 == 1 {
			sender = betosPage
		}
		sender.send(text)
		anasPage.awaitShown(t, i+1)
		betosPage.awaitShown(t, i+1)
		messages = append(messages, normalizr.Message{ID: sender.acked[text], Author: sender.user.author, Text: text})
	}

	var payload json.RawMessage
	eventually(t, "all messages in one frame", func() (err error) {
		payload, err = firstFrame(t, ana, s.url)
		if err == nil && bytes.Count(payload, []byte(`"fecha"`)) < len(messages) {
			err = errors.New("the process does not have all messages yet")
		}
		return err
	})
	for i, m := range messages {
		sent := anasPage.shown[m.ID].Time
		if age := time.Since(sent); age < 0 || age > time.Minute {
			t.Errorf("message %d was sent at %v", m.ID, sent)
		}
		messages[i].Time = sent
	}
	npm.Compare(t, payload, messages)
}

// firstFrame returns the first payload of a page without messages.
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
