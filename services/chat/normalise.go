// Package chat holds what is said and who listens: the hub that hands the log's entries to every open page of a process, and
// the normalised form in which messages travel. It knows neither Fiber nor websockets; what it hands out is the text of a frame.
package chat

import (
	"strconv"
	"time"

	"balanza/services/store"
)

// room is the id of the one chat there is, in the normalised form and in what the page denormalises.
const room = "mensajes"

// Normalised is what npm's normalizr 3 makes of {id: "mensajes", mensajes: […]} with the schemas
// author = Entity('authors'), mensaje = Entity('messages', {author}) and chat = Entity('chats', {mensajes: [mensaje]}).
type Normalised struct {
	Result   string   `json:"result"`
	Entities Entities `json:"entities"`
}

// Entities holds each entity once, by the text of its id. A kind that does not occur is left out, as normalizr does.
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

// Normalise gives the normalised form of the messages among entries, in their order. Where an author's profile differs between
// messages the last one stands, which is what normalizr's merge comes to when every author has every field.
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
		said := e.Message
		authors[said.Author.ID] = said.Author
		messages[strconv.FormatInt(e.N, 10)] = Message{ID: e.N, Author: said.Author.ID, Text: said.Text, Time: said.Time.UTC()}
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
