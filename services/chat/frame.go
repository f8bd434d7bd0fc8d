package chat

import (
	"bytes"
	"encoding/json"
	"fmt"
	"runtime"
	"slices"

	"balanza/services/store"
)

// maxFrame is the greatest length of a frame, in bytes. On a slow line a page gets frames one by one, keeps what it got
// when the line breaks, and gets its acknowledgements between two of them. A message of the longest text and profile fits.
const maxFrame = 16 << 10

// encodeBatch is how many messages are encoded before other goroutines get the processor.
const encodeBatch = 100

// chatEvent brings messages. With them a page has all messages up to the entry numbered Last. Reset orders the page to drop
// what it has first, since there is a gap between that and these. More says that the next frame continues this one.
type chatEvent struct {
	Type       string     `json:"type"`
	Last       int64      `json:"last"`
	Reset      bool       `json:"reset"`
	More       bool       `json:"more"`
	Normalised Normalised `json:"normalised"`
}

// productEvent announces that a product was written or, when Product is null, deleted.
type productEvent struct {
	Type    string         `json:"type"`
	ID      string         `json:"id"`
	Product *store.Product `json:"product"`
}

// chatFrames encodes messages, which bring a page to the entry numbered last, in at least one frame.
func chatFrames(messages []store.Entry, last int64, reset, more bool) [][]byte {
	var frames [][]byte
	for len(messages) > encodeBatch {
		part := messages[:encodeBatch]
		frames = append(frames, batchFrames(part, part[encodeBatch-1].N, reset, true)...)
		messages, reset = messages[encodeBatch:], false
		runtime.Gosched()
	}
	return append(frames, batchFrames(messages, last, reset, more)...)
}

// batchFrames is chatFrames for a batch. What is too long for one frame is cut into parts of equal numbers of messages, and
// these again where they are too long.
func batchFrames(messages []store.Entry, last int64, reset, more bool) [][]byte {
	frame := encode(chatEvent{"chat", last, reset, more, Normalise(messages)})
	if len(frame) <= maxFrame || len(messages) <= 1 {
		return [][]byte{frame}
	}
	var frames [][]byte
	for part := range slices.Chunk(messages, max(1, len(messages)*maxFrame/len(frame))) {
		end := part[len(part)-1].N
		if end == messages[len(messages)-1].N {
			frames = append(frames, batchFrames(part, last, reset, more)...)
		} else {
			frames = append(frames, batchFrames(part, end, reset, true)...)
		}
		reset = false
	}
	return frames
}

// encode marshals an event. It leaves <, > and & as they are, since pages parse JSON and insert no HTML.
func encode(event any) []byte {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	if err := e.Encode(event); err != nil { // only for NaN and infinities, which no store accepts
		panic(fmt.Sprintf("chat: %v", err))
	}
	return bytes.TrimSuffix(b.Bytes(), []byte("\n"))
}
