package chat

import (
	"encoding/json"
	"fmt"

	"balanza/services/store"
)

// maxPerFrame limits the messages of a frame, so that a page never has to show too many at once.
const maxPerFrame = 500

// chatEvent brings messages. With them a page has all messages up to the entry numbered Last. Reset orders the page to drop
// what it has first, since there is a gap between that and these.
type chatEvent struct {
	Type       string     `json:"type"`
	Last       int64      `json:"last"`
	Reset      bool       `json:"reset"`
	Normalised Normalised `json:"normalised"`
}

// productEvent announces that a product was written or, when Product is null, deleted.
type productEvent struct {
	Type    string         `json:"type"`
	ID      string         `json:"id"`
	Product *store.Product `json:"product"`
}

// chatFrame encodes at most maxPerFrame messages.
func chatFrame(messages []store.Entry, last int64, reset bool) []byte {
	return encode(chatEvent{Type: "chat", Last: last, Reset: reset, Normalised: Normalise(messages)})
}

// chatFrames encodes any number of messages, in at least one frame.
func chatFrames(messages []store.Entry, last int64, reset bool) [][]byte {
	var frames [][]byte
	for len(messages) > maxPerFrame {
		part := messages[:maxPerFrame]
		frames = append(frames, chatFrame(part, part[maxPerFrame-1].N, reset))
		messages, reset = messages[maxPerFrame:], false
	}
	return append(frames, chatFrame(messages, last, reset))
}

// encode marshals an event.
func encode(event any) []byte {
	b, err := json.Marshal(event)
	if err != nil { // only for NaN and infinities, which no store accepts
		panic(fmt.Sprintf("chat: %v", err))
	}
	return b
}
