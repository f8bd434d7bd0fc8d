// The normalised chat, as npm's normalizr 3 makes it: {result: 'mensajes', entities: {authors, messages, chats}}.

/** The form without messages. */
export function nothing() {
  return { entities: { authors: {}, messages: {}, chats: { mensajes: { id: 'mensajes', mensajes: [] } } }, result: 'mensajes' };
}

/** Adds to `known` what `news` holds. Entities of the same id are replaced. */
export function merge(known, news) {
  const into = known.entities;
  const from = news.entities;
  Object.assign(into.authors, from.authors);
  const chat = into.chats[known.result];
  for (const id of from.chats[news.result].mensajes) {
    if (!(id in into.messages)) chat.mensajes.push(id);
  }
  Object.assign(into.messages, from.messages);
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

/** How long the normalised form is, in percent of the denormalised. */
export function compression(normalised) {
  return 100 * JSON.stringify(normalised).length / JSON.stringify(denormalise(normalised)).length;
}
