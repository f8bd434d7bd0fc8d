package chat

import (
	"encoding/json"
	"fmt"

	"balanza/services/store"
)

// perFrame bounds the messages in a frame, and so what a page takes in at a time.
const perFrame = 500

// chatEvent tells messages. Last is the entry up to which the page then has everything; Reset says that what it had is to be
// forgotten, for there is a gap.
type chatEvent struct {
	Type       string     `json:"type"`
	Last       int64      `json:"last"`
	Reset      bool       `json:"reset"`
	Normalised Normalised `json:"normalised"`
}

// productEvent tells that a product was written or, when Product is null, deleted.
type productEvent struct {
	Type    string         `json:"type"`
	ID      string         `json:"id"`
	Product *store.Product `json:"product"`
}

func chatFrame(messages []store.Entry, last int64, reset bool) []byte {
	return encode(chatEvent{Type: "chat", Last: last, Reset: reset, Normalised: Normalise(messages)})
}

// chatFrames tells any number of messages, in at least one frame.
func chatFrames(messages []store.Entry, last int64, reset bool) [][]byte {
	var frames [][]byte
	for len(messages) > perFrame {
		part := messages[:perFrame]
		frames = append(frames, chatFrame(part, part[perFrame-1].N, reset))
		messages, reset = messages[perFrame:], false
	}
	return append(frames, chatFrame(messages, last, reset))
}

func encode(event any) []byte {
	b, err := json.Marshal(event)
	if err != nil { // only a number that JSON lacks, which no store hands out
		panic(fmt.Sprintf("chat: %v", err))
	}
	return b
}
