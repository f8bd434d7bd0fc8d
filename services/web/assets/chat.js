// The chat: the messages, also the earlier ones when the reader scrolls up, the compression of their normalised form, and the
// form for a new message.

import { compression, emptyChat, merge, mergeEarlier, message } from './denormalise.js';

const $ = (id) => document.getElementById(id);
const REQUEST_TIMEOUT = 20_000; // ms
const EARLIER_MARGIN = '300px 0px 0px'; // how near to the first message the reader is when earlier ones are loaded
const QUIET_TIME = 500; // ms in which screen readers do not announce the earlier messages

export class Chat {
  /** The number of the last log entry that the page has. */
  last = 0;

  #normalised = emptyChat();
  #shown = new Map(); // message's id → its element
  #timer = 0; // timer
  #earlier = null; // address of the messages before those that are shown, null: there are none
  #loading = null; // address that is being loaded
  #observer = new IntersectionObserver((entries) => entries.some((e) => e.isIntersecting) && this.#loadEarlier(),
    { root: $('log'), rootMargin: EARLIER_MARGIN });

  /** Shows the events of a socket, and sends the form's messages to it. */
  connect(socket) {
    socket.addEventListener('chat', ({ detail }) => this.#onChat(detail));
    socket.addEventListener('pending', () => this.#showPending(socket.pending));
    socket.addEventListener('rejected', ({ detail }) => showError(detail));
    socket.addEventListener('delayed', ({ detail }) => showError(detail));
    $('chat-earlier').addEventListener('click', () => this.#loadEarlier());
    const form = $('chat-form');
    form.addEventListener('submit', (event) => {
      event.preventDefault();
      const text = form.text.value.trim();
      if (!text) return;
      showError('');
      socket.send(text);
      form.reset();
      fit(form.text);
    });
    form.text.addEventListener('input', () => fit(form.text));
    form.text.addEventListener('keydown', (event) => {
      if (event.key !== 'Enter' || event.shiftKey || event.isComposing) return;
      event.preventDefault();
      form.requestSubmit();
    });
  }

  #onChat({ last, reset, normalised }) {
    if (reset) {
      this.#normalised = emptyChat();
      this.#shown.clear();
      $('messages').replaceChildren();
      const [first = last + 1] = normalised.entities.chats[normalised.result].mensajes;
      this.#setEarlier(first > 1 ? `/api/mensajes?before=${first}` : null);
    }
    merge(this.#normalised, normalised);
    this.last = last;
    for (const id of normalised.entities.chats[normalised.result].mensajes) {
      this.#show(message(this.#normalised, id));
    }
    $('chat-empty').hidden = this.#shown.size > 0;
    this.#showCompression();
  }

  /** Sets the address of the earlier messages. They are loaded when the button is in view, or nearly, or pressed. */
  #setEarlier(address) {
    this.#earlier = address;
    this.#loading = null;
    const button = $('chat-earlier');
    button.textContent = button.dataset.load;
    if (!address && button === document.activeElement) $('log').focus(); // else the focus is lost with the button
    button.parentElement.hidden = !address;
    this.#observer.disconnect();
    if (address) this.#observer.observe(button);
  }

  async #loadEarlier() {
    const address = this.#earlier;
    if (!address || this.#loading) return;
    this.#loading = address;
    const button = $('chat-earlier');
    button.textContent = button.dataset.loading;
    try {
      const signal = AbortSignal.timeout(REQUEST_TIMEOUT);
      const response = await fetch(address, { headers: { Accept: 'application/json' }, signal });
      if (response.status === 401) location.assign('/login');
      if (!response.ok) throw new Error(response.statusText);
      const normalised = await response.json();
      if (address !== this.#earlier) return; // the server has replaced the messages meanwhile
      this.#showEarlier(normalised);
      this.#setEarlier(response.headers.get('Link')?.match(/<([^>]+)>; rel="next"/)?.[1] ?? null);
    } catch {
      if (address !== this.#earlier) return;
      this.#loading = null;
      button.textContent = button.dataset.load;
      showError(button.dataset.failed);
    }
  }

  /** Shows messages before the others. The log scrolls from its end, so what the reader sees does not move. */
  #showEarlier(normalised) {
    const items = mergeEarlier(this.#normalised, normalised).map((id) => {
      const item = messageItem(message(this.#normalised, id));
      this.#shown.set(id, item);
      return item;
    });
    $('log').ariaLive = 'off';
    $('messages').prepend(...items);
    setTimeout(() => { $('log').ariaLive = 'polite'; }, QUIET_TIME);
    $('chat-empty').hidden = this.#shown.size > 0;
    this.#showCompression();
  }

  #show(message) {
    const item = messageItem(message);
    const old = this.#shown.get(message.id);
    if (old) old.replaceWith(item);
    else $('messages').append(item);
    this.#shown.set(message.id, item);
  }

  /** Shows the compression at most five times a second, since computing it encodes the whole chat. */
  #showCompression() {
    this.#timer ||= setTimeout(() => {
      this.#timer = 0;
      const label = $('compression');
      const percent = new Intl.NumberFormat(document.documentElement.lang, { maximumFractionDigits: 2 });
      label.textContent = this.#shown.size
        ? `(${label.dataset.label}: ${percent.format(compression(this.#normalised))} %)` : '';
    }, 200);
  }

  #showPending(messages) {
    const list = $('pending');
    list.replaceChildren(...messages.map(([, text]) =>
      element('li', 'message', element('p', 'line', element('i', 'text', text), ' ',
        element('small', '', list.dataset.sending)))));
  }
}

function messageItem({ author, text, fecha }) {
  const when = element('time', 'when', `[${formatTime(fecha)}]`);
  when.dateTime = fecha;
  return element('li', 'message', avatar(author), element('p', 'line',
    element('b', 'author', author.id), ' ', when, ' ', element('i', 'text', text)));
}

/** The author's picture, or the first letter of the alias where there is none or it cannot be loaded. */
function avatar({ alias, id, avatar: url }) {
  const letter = element('span', 'avatar', (alias || id).slice(0, 1).toUpperCase());
  letter.ariaHidden = 'true';
  if (!url) return letter;
  const picture = element('img', 'avatar');
  Object.assign(picture, { src: url, alt: '', width: 32, height: 32, loading: 'lazy', referrerPolicy: 'no-referrer' });
  picture.onerror = () => picture.replaceWith(letter);
  return picture;
}

/** DD/MM/YYYY HH:MM:SS, in the reader's time zone. */
export function formatTime(text) {
  const t = new Date(text);
  const two = (n) => String(n).padStart(2, '0');
  return `${two(t.getDate())}/${two(t.getMonth() + 1)}/${t.getFullYear()} `
    + `${two(t.getHours())}:${two(t.getMinutes())}:${two(t.getSeconds())}`;
}

/** Makes the field as high as its text. */
function fit(field) {
  field.style.height = 'auto';
  field.style.height = `${field.scrollHeight}px`;
}

function showError(text) {
  const error = $('chat-error');
  error.textContent = text;
  error.hidden = !text;
}

function element(name, className, ...children) {
  const e = document.createElement(name);
  if (className) e.className = className;
  e.append(...children);
  return e;
}
