// The normalised chat, as npm's normalizr 3 makes it: {result: 'mensajes', entities: {authors, messages, chats}}.

/** The normalised form without messages. */
export function emptyChat() {
  return { entities: { authors: {}, messages: {}, chats: { mensajes: { id: 'mensajes', mensajes: [] } } }, result: 'mensajes' };
}

/** Adds the entities of `update` to `target`, both normalised. Entities of the same id are replaced. */
export function merge(target, update) {
  const into = target.entities;
  const from = update.entities;
  Object.assign(into.authors, from.authors);
  const chat = into.chats[target.result];
  for (const id of from.chats[update.result].mensajes) {
    if (!(id in into.messages)) chat.mensajes.push(id);
  }
  Object.assign(into.messages, from.messages);
}

/** Adds the entities of `earlier` before those of `target`, whose authors are newer and stay. Returns the ids of new messages. */
export function mergeEarlier(target, earlier) {
  const into = target.entities;
  const from = earlier.entities;
  const ids = from.chats[earlier.result].mensajes.filter((id) => !(id in into.messages));
  into.authors = { ...from.authors, ...into.authors };
  into.messages = { ...from.messages, ...into.messages };
  const chat = into.chats[target.result];
  chat.mensajes = [...ids, ...chat.mensajes];
  return ids;
}

/** One message, with its author inside. */
export function message({ entities }, id) {
  const found = entities.messages[id];
  return { ...found, author: entities.authors[found.author] };
}

/** The whole chat, with every message and its author inside: {id, mensajes: […]}. */
export function denormalise(normalised) {
  const chat = normalised.entities.chats[normalised.result];
  return { ...chat, mensajes: chat.mensajes.map((id) => message(normalised, id)) };
}

/** The length of the normalised form as JSON, in percent of the denormalised form's. */
export function compression(normalised) {
  return 100 * JSON.stringify(normalised).length / JSON.stringify(denormalise(normalised)).length;
}
