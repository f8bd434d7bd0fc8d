// The page's end of the websocket: connects, comes back when the connection ends, and repeats what was not acknowledged.

const FIRST_PAUSE = 250; // ms before the first new try; doubled each time …
const LONGEST_PAUSE = 8000; // … up to this
const PATIENCE = 10_000; // ms of silence, while the page waits for something, before the connection counts as dead
const AT_ONCE = 16; // messages on their way
const REPEAT = 1500; // ms before a message is repeated that the server could not take just now
const TRANSIENT = new Set([-6, -7]); // codes: too many messages, store unavailable

export class Socket extends EventTarget {
  #url;
  #after; // the last entry the page has
  #socket = null;
  #pause = FIRST_PAUSE;
  #timer = 0;
  #pending = new Map(); // clientId → {text, sent, timer}, in the order they were written
  #silence = 0; // timer
  #open = false;
  #joined = false; // the server has told what the page missed

  /**
   * `after` gives the number of the last log entry that the page has. Events: 'state' (detail: 'open' or 'waiting'),
   * 'joined' when a connection begins to tell what happens, 'pending', 'refused' (detail: the server's words), and what the
   * server tells: 'chat' and 'product'.
   */
  constructor(path, after) {
    super();
    this.#url = new URL(path, location.href.replace(/^http/, 'ws'));
    this.#after = after;
    addEventListener('offline', () => this.#giveUp());
    addEventListener('online', () => this.#soon(0));
    addEventListener('beforeunload', (event) => {
      if (this.#pending.size) event.preventDefault(); // the browser asks first: what is not acknowledged would be lost
    });
    addEventListener('pagehide', () => this.#socket?.close());
    addEventListener('pageshow', (event) => event.persisted && this.#soon(0));
    this.#connect();
  }

  /** Messages that are not acknowledged: [[clientId, text], …]. */
  get pending() {
    return [...this.#pending].map(([clientId, { text }]) => [clientId, text]);
  }

  /** Sends a message, now or as soon as there is a connection. */
  say(text) {
    const clientId = newId();
    this.#pending.set(clientId, { text, sent: false, timer: 0 });
    this.#tell('pending');
    this.#send();
  }

  #connect() {
    clearTimeout(this.#timer);
    this.#url.searchParams.set('after', this.#after());
    const socket = new WebSocket(this.#url);
    this.#socket = socket;
    this.#listen();
    socket.onopen = () => {
      this.#open = true;
      this.#tell('state', 'open');
      this.#send();
    };
    socket.onmessage = ({ data }) => this.#receive(JSON.parse(data));
    socket.onclose = () => this.#closed();
  }

  async #closed() {
    const hadJoined = this.#joined;
    this.#open = this.#joined = false;
    clearTimeout(this.#silence);
    for (const message of this.#pending.values()) {
      clearTimeout(message.timer);
      message.sent = false;
    }
    this.#tell('state', 'waiting');
    // All pages of a server that stops lose it at once: they come back spread over the pause.
    this.#soon(this.#pause * (0.5 + Math.random() / 2));
    this.#pause = Math.min(2 * this.#pause, LONGEST_PAUSE);
    if (!hadJoined) await leaveWhenLoggedOut();
  }

  #soon(pause) {
    if (this.#socket.readyState < WebSocket.CLOSING) return;
    clearTimeout(this.#timer);
    this.#timer = setTimeout(() => this.#connect(), pause);
  }

  /** Sends the oldest messages that are not sent yet, few at a time: the last ones would have to wait for all others. */
  #send() {
    if (!this.#open) return;
    for (const [clientId, message] of [...this.#pending].slice(0, AT_ONCE)) {
      if (message.sent) continue;
      message.sent = true;
      this.#socket.send(JSON.stringify({ type: 'message', text: message.text, clientId }));
    }
    this.#listen();
  }

  /** A process that hangs neither opens nor closes a connection. */
  #listen() {
    clearTimeout(this.#silence);
    if (this.#pending.size || !this.#joined) this.#silence = setTimeout(() => this.#giveUp(), PATIENCE);
  }

  /** Ends a connection whose other end is not there: the browser would wait a minute for its goodbye. */
  #giveUp() {
    const socket = this.#socket;
    if (socket.readyState >= WebSocket.CLOSING) return;
    socket.onopen = socket.onmessage = socket.onclose = null;
    socket.close();
    this.#closed();
  }

  #receive(event) {
    switch (event.type) {
      case 'ack':
        this.#settle(event.clientId);
        break;
      case 'error':
        this.#refused(event);
        break;
      default:
        if (!this.#joined) this.#begin();
        this.#tell(event.type, event);
    }
    this.#listen();
  }

  #begin() {
    this.#joined = true;
    this.#pause = FIRST_PAUSE;
    this.#tell('joined');
  }

  #refused({ clientId, codigo, descripcion }) {
    const message = this.#pending.get(clientId);
    if (message && TRANSIENT.has(codigo)) {
      message.timer = setTimeout(() => {
        message.sent = false;
        this.#send();
      }, REPEAT);
      return;
    }
    this.#settle(clientId);
    this.#tell('refused', descripcion);
  }

  #settle(clientId) {
    clearTimeout(this.#pending.get(clientId)?.timer);
    this.#pending.delete(clientId);
    this.#tell('pending');
    this.#send();
  }

  #tell(type, detail) {
    this.dispatchEvent(new CustomEvent(type, { detail }));
  }
}

/** Random text; crypto.randomUUID is not to be had on plain http. */
function newId() {
  return Array.from(crypto.getRandomValues(new Uint8Array(16)), (byte) => byte.toString(16).padStart(2, '0')).join('');
}

/** The server does not say why it refuses a websocket; if it is for want of a session, the start page leads to the login. */
async function leaveWhenLoggedOut() {
  try {
    const answer = await fetch('/', { method: 'HEAD', redirect: 'manual', cache: 'no-store' });
    if (answer.type === 'opaqueredirect') location.assign('/login');
  } catch {
    // no connection at all: the next try will tell
  }
}
