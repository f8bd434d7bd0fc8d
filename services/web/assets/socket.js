// The page's websocket: connects, connects again when the connection ends, and repeats messages that were not acknowledged.

const MIN_BACKOFF = 250; // ms before the first attempt to reconnect; doubled each time
const MAX_BACKOFF = 8000; // ms
const SILENCE_TIMEOUT = 10_000; // ms without a frame, while the page waits for one, after which the connection is dropped
const MAX_IN_FLIGHT = 16; // messages that were sent and are not acknowledged
const RETRY_DELAY = 1500; // ms before a message is repeated after a temporary error
const TEMPORARY = new Set([-6, -7]); // error codes: too many messages, store unavailable

export class Socket extends EventTarget {
  #url;
  #after; // returns the number of the last entry that the page has
  #socket = null;
  #backoff = MIN_BACKOFF;
  #timer = 0;
  #pending = new Map(); // clientId → {text, sent, timer}, in the order they were written
  #silence = 0; // timer
  #open = false;
  #joined = false; // the server has sent the messages that the page missed

  /**
   * `after` gives the number of the last log entry that the page has. Events: 'state' (detail: 'open' or 'waiting'),
   * 'joined' when the first event of a connection has arrived, 'pending' when that list changes, 'rejected' (detail: the
   * reason), and the server's events: 'chat' and 'product'.
   */
  constructor(path, after) {
    super();
    this.#url = new URL(path, location.href.replace(/^http/, 'ws'));
    this.#after = after;
    addEventListener('offline', () => this.#drop());
    addEventListener('online', () => this.#connectIn(0));
    addEventListener('beforeunload', (event) => {
      if (this.#pending.size) event.preventDefault(); // the browser asks before it drops messages that are not acknowledged
    });
    addEventListener('pagehide', () => this.#socket?.close());
    addEventListener('pageshow', (event) => event.persisted && this.#connectIn(0));
    this.#connect();
  }

  /** Messages that are not acknowledged: [[clientId, text], …]. */
  get pending() {
    return [...this.#pending].map(([clientId, { text }]) => [clientId, text]);
  }

  /** Sends a message, now or as soon as there is a connection. */
  send(text) {
    const clientId = newId();
    this.#pending.set(clientId, { text, sent: false, timer: 0 });
    this.#emit('pending');
    this.#sendPending();
  }

  #connect() {
    clearTimeout(this.#timer);
    this.#url.searchParams.set('after', this.#after());
    const socket = new WebSocket(this.#url);
    this.#socket = socket;
    this.#restartTimer();
    socket.onopen = () => {
      this.#open = true;
      this.#emit('state', 'open');
      this.#sendPending();
    };
    socket.onmessage = ({ data }) => this.#receive(JSON.parse(data));
    socket.onclose = () => this.#onClose();
  }

  async #onClose() {
    const hadJoined = this.#joined;
    this.#open = this.#joined = false;
    clearTimeout(this.#silence);
    for (const message of this.#pending.values()) {
      clearTimeout(message.timer);
      message.sent = false;
    }
    this.#emit('state', 'waiting');
    // All pages of a server that stops lose their connections at once: a random delay spreads their return.
    this.#connectIn(this.#backoff * (0.5 + Math.random() / 2));
    this.#backoff = Math.min(2 * this.#backoff, MAX_BACKOFF);
    if (!hadJoined) await redirectIfLoggedOut();
  }

  #connectIn(delay) {
    if (this.#socket.readyState < WebSocket.CLOSING) return;
    clearTimeout(this.#timer);
    this.#timer = setTimeout(() => this.#connect(), delay);
  }

  /** Sends the oldest messages that are not sent yet, at most MAX_IN_FLIGHT at a time. */
  #sendPending() {
    if (!this.#open) return;
    for (const [clientId, message] of [...this.#pending].slice(0, MAX_IN_FLIGHT)) {
      if (message.sent) continue;
      message.sent = true;
      this.#socket.send(JSON.stringify({ type: 'message', text: message.text, clientId }));
    }
    this.#restartTimer();
  }

  /** Restarts the silence timer: a process that hangs neither opens nor closes a connection. */
  #restartTimer() {
    clearTimeout(this.#silence);
    if (this.#pending.size || !this.#joined) this.#silence = setTimeout(() => this.#drop(), SILENCE_TIMEOUT);
  }

  /** Drops a dead connection without its close handshake, for which the browser would wait a minute. */
  #drop() {
    const socket = this.#socket;
    if (socket.readyState >= WebSocket.CLOSING) return;
    socket.onopen = socket.onmessage = socket.onclose = null;
    socket.close();
    this.#onClose();
  }

  #receive(event) {
    switch (event.type) {
      case 'ack':
        this.#complete(event.clientId);
        break;
      case 'error':
        this.#onError(event);
        break;
      default:
        if (!this.#joined) this.#onJoined();
        this.#emit(event.type, event);
    }
    this.#restartTimer();
  }

  #onJoined() {
    this.#joined = true;
    this.#backoff = MIN_BACKOFF;
    this.#emit('joined');
  }

  #onError({ clientId, codigo, descripcion }) {
    const message = this.#pending.get(clientId);
    if (message && TEMPORARY.has(codigo)) {
      message.timer = setTimeout(() => {
        message.sent = false;
        this.#sendPending();
      }, RETRY_DELAY);
      return;
    }
    this.#complete(clientId);
    this.#emit('rejected', descripcion);
  }

  #complete(clientId) {
    clearTimeout(this.#pending.get(clientId)?.timer);
    this.#pending.delete(clientId);
    this.#emit('pending');
    this.#sendPending();
  }

  #emit(type, detail) {
    this.dispatchEvent(new CustomEvent(type, { detail }));
  }
}

/** Random text. Browsers offer crypto.randomUUID only over https. */
function newId() {
  return Array.from(crypto.getRandomValues(new Uint8Array(16)), (byte) => byte.toString(16).padStart(2, '0')).join('');
}

/** Browsers hide why a websocket was rejected. If there is no session, the start page redirects to the log-in. */
async function redirectIfLoggedOut() {
  try {
    const response = await fetch('/', { method: 'HEAD', redirect: 'manual', cache: 'no-store' });
    if (response.type === 'opaqueredirect') location.assign('/login');
  } catch {
    // no connection at all; the next attempt follows
  }
}
