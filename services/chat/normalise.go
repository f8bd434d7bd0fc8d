// Package chat delivers the log's entries to every open page of a process (Hub, Listener), in the normalised form that the
// course asks for (Normalise). It uses neither Fiber nor websockets: its output is the text of a frame.
package chat

import (
	"strconv"
	"time"

	"balanza/services/store"
)

// room is the id of the only chat, in the normalised form and after denormalisation.
const room = "mensajes"

// Normalised is what npm's normalizr 3 makes of {id: "mensajes", mensajes: […]} with the schemas
// author = Entity('authors'), mensaje = Entity('messages', {author}) and chat = Entity('chats', {mensajes: [mensaje]}).
type Normalised struct {
	Result   string   `json:"result"`
	Entities Entities `json:"entities"`
}

// Entities holds each entity once, by its id as text. A kind without entities is left out, as normalizr does.
type Entities struct {
	Authors  map[string]store.Author `json:"authors,omitempty"`
	Messages map[string]Message      `json:"messages,omitempty"`
	Chats    map[string]Chat         `json:"chats"`
}

// Message is a message that names its author instead of holding it.
type Message struct {
	ID     int64     `json:"id"` // its entry's number in the log
	Author string    `json:"author"`
	Text   string    `json:"text"`
	Time   time.Time `json:"fecha"` // RFC 3339, UTC
}

// Chat is the conversation: the ids of its messages, oldest first.
type Chat struct {
	ID       string  `json:"id"`
	Messages []int64 `json:"mensajes"`
}

// Normalise returns the normalised form of the messages among entries, in their order. Where an author's profile differs
// between messages, the last one counts: normalizr's merge has the same result when every author has every field.
func Normalise(entries []store.Entry) Normalised {
	var authors map[string]store.Author
	var messages map[string]Message
	ids := []int64{} // JSON [] and not null
	for _, e := range entries {
		if e.Message == nil {
			continue
		}
		if messages == nil {
			authors = make(map[string]store.Author)
			messages = make(map[string]Message, len(entries))
		}
		m := e.Message
		authors[m.Author.ID] = m.Author
		messages[strconv.FormatInt(e.N, 10)] = Message{ID: e.N, Author: m.Author.ID, Text: m.Text, Time: m.Time.UTC()}
		ids = append(ids, e.N)
	}
	return Normalised{
		Result: room,
		Entities: Entities{
			Authors:  authors,
			Messages: messages,
			Chats:    map[string]Chat{room: {ID: room, Messages: ids}},
		},
	}
}
