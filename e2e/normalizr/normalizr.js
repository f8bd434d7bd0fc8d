// Reads {"payload": normalised, "messages": [denormalised…]} and prints what the real normalizr makes of each:
// {"denormalised": of the payload, "normalised": of the messages}.
const { normalize, denormalize, schema } = require('normalizr');

const author = new schema.Entity('authors');
const mensaje = new schema.Entity('messages', { author });
const chat = new schema.Entity('chats', { mensajes: [mensaje] });

const { payload, messages } = JSON.parse(require('fs').readFileSync(0, 'utf8'));
console.log(JSON.stringify({
  denormalised: denormalize(payload.result, chat, payload.entities),
  normalised: normalize({ id: 'mensajes', mensajes: messages }, chat),
}));
