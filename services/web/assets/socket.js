// The page's websocket: connects, connects again when the connection ends, and repeats messages that were not acknowledged.

const MIN_BACKOFF = 250; // ms before the first attempt to reconnect; doubled each time
const MAX_BACKOFF = 8000; // ms
const SILENCE_TIMEOUT = 25_000; // ms without a frame after which the connection is dropped; the server sends one every 15 s
const REQUEST_TIMEOUT = 20_000; // ms
const MAX_IN_FLIGHT = 16; // messages that were sent and are not acknowledged
const SEND_INTERVAL = 100; // ms between two messages on average: the server closes a page of more than 20 frames a second
const SEND_BURST = 16; // messages that are sent without these intervals
const RETRY_DELAY = 1500; // ms before a message is repeated after a temporary error
const POLICY_VIOLATION = 1008; // close code: the session has ended, or the page has sent too much
const TEMPORARY = new Set([-6, -7]); // error codes: too many messages, store unavailable

export class Socket extends EventTarget {
  #url;
  #after; // returns the number of the last entry that the page has; undefined: it gets no entries
  #socket = null;
  #backoff = MIN_BACKOFF;
  #timer = 0;
  #pending = new Map(); // clientId → {text, sent, timer}, in the order they were written
  #silence = 0; // timer
  #pace = 0; // timer of the next message that must wait
  #paced = 0; // time at which all messages sent so far would have been sent, one in each SEND_INTERVAL
  #pausedUntil = 0; // time before which the server accepts no message
  #delayed = false; // a 'delayed' event has given a reason
  #open = false;
  #joined = false; // the server has sent an event
  #complete = false; // the server has sent all that the page missed
  #leavingUntil = 0; // time until which the browser may be loading the page that answers a form

  /**
   * `after` gives the number of the last log entry that the page has; the panel, which gets no entries, has none. Events:
   * 'state' (detail: 'open' when the page has all that it missed, or 'waiting'), 'joined' when the first event of a
   * connection has arrived, 'pending' when that list changes, 'rejected' (detail: the reason), 'delayed' (detail: why
   * messages or the connection must wait, '' when they no longer do), and the server's events: 'chat', 'product' and
   * 'processes'.
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
    addEventListener('submit', ({ defaultPrevented }) => {
      if (!defaultPrevented) this.#leavingUntil = Date.now() + REQUEST_TIMEOUT;
    });
    addEventListener('pagehide', () => this.#drop());
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
    if (this.#after) this.#url.searchParams.set('after', this.#after());
    const socket = new WebSocket(this.#url);
    this.#socket = socket;
    this.#restartTimer();
    socket.onopen = () => {
      this.#open = true;
      this.#sendPending();
    };
    socket.onmessage = ({ data }) => this.#receive(JSON.parse(data));
    socket.onclose = ({ code }) => this.#onClose(code);
  }

  async #onClose(code) {
    const lostSession = !this.#joined || code === POLICY_VIOLATION;
    if (code === POLICY_VIOLATION) this.#backoff = MAX_BACKOFF;
    this.#socket = null;
    this.#open = this.#joined = this.#complete = false;
    clearTimeout(this.#silence);
    clearTimeout(this.#pace);
    for (const message of this.#pending.values()) {
      clearTimeout(message.timer);
      message.sent = false;
    }
    this.#emit('state', 'waiting');
    // All pages of a server that stops lose their connections at once: a random delay spreads their return.
    this.#connectIn(this.#backoff * (0.5 + Math.random() / 2));
    this.#backoff = Math.min(2 * this.#backoff, MAX_BACKOFF);
    // The answer to the log-out button is a page of its own, which a redirect would replace.
    if (lostSession && Date.now() > this.#leavingUntil) await redirectIfLoggedOut();
  }

  #connectIn(delay) {
    if (this.#socket) return;
    clearTimeout(this.#timer);
    this.#timer = setTimeout(() => this.#connect(), delay);
  }

  /** Sends the oldest messages that are not sent yet, at most MAX_IN_FLIGHT at a time, at the pace that the server allows. */
  #sendPending() {
    clearTimeout(this.#pace);
    if (!this.#open) return;
    for (const [clientId, message] of [...this.#pending].slice(0, MAX_IN_FLIGHT)) {
      if (message.sent) continue;
      const now = Date.now();
      const wait = Math.max(this.#pausedUntil, this.#paced - (SEND_BURST - 1) * SEND_INTERVAL) - now;
      if (wait > 0) {
        this.#pace = setTimeout(() => this.#sendPending(), wait);
        return;
      }
      this.#paced = Math.max(this.#paced, now) + SEND_INTERVAL;
      message.sent = true;
      this.#socket.send(JSON.stringify({ type: 'message', text: message.text, clientId }));
    }
  }

  /** Restarts the silence timer. Only what is heard does: a process that hangs, or a line that is dead, closes nothing. */
  #restartTimer() {
    clearTimeout(this.#silence);
    this.#silence = setTimeout(() => this.#drop(), SILENCE_TIMEOUT);
  }

  /** Drops a connection without its close handshake, for which a browser may wait a minute, or for ever. */
  #drop() {
    const socket = this.#socket;
    if (!socket) return;
    socket.onopen = socket.onmessage = socket.onclose = null;
    socket.close();
    this.#onClose();
  }

  #receive(event) {
    this.#restartTimer();
    switch (event.type) {
      case 'ack':
        this.#remove(event.clientId);
        this.#endDelay();
        break;
      case 'error':
        this.#onError(event);
        break;
      case 'chat':
      case 'product':
      case 'processes':
        if (!this.#joined) this.#onJoined();
        this.#emit(event.type, event);
        if (event.type !== 'product' && !event.more && !this.#complete) this.#onComplete();
    }
  }

  #onJoined() {
    this.#joined = true;
    this.#backoff = MIN_BACKOFF;
    this.#endDelay();
    this.#emit('joined');
  }

  #onComplete() {
    this.#complete = true;
    this.#emit('state', 'open');
  }

  #onError({ clientId, codigo, descripcion, espera = 0 }) {
    if (espera) {
      this.#delayed = true;
      this.#emit('delayed', descripcion);
    }
    if (!clientId && espera) { // the server closes the connection
      this.#backoff = espera * 1000;
      return;
    }
    const message = this.#pending.get(clientId);
    if (message && TEMPORARY.has(codigo)) {
      if (espera) this.#pausedUntil = Date.now() + espera * 1000;
      message.timer = setTimeout(() => {
        message.sent = false;
        this.#sendPending();
      }, espera * 1000 || RETRY_DELAY);
      return;
    }
    this.#remove(clientId);
    this.#emit('rejected', descripcion);
  }

  /** Reports that nothing must wait any more. */
  #endDelay() {
    if (!this.#delayed) return;
    this.#delayed = false;
    this.#emit('delayed', '');
  }

  #remove(clientId) {
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
    const signal = AbortSignal.timeout(REQUEST_TIMEOUT);
    const response = await fetch('/', { method: 'HEAD', redirect: 'manual', cache: 'no-store', signal });
    if (response.type === 'opaqueredirect') location.assign('/login');
  } catch {
    // no connection at all; the next attempt follows
  }
}
