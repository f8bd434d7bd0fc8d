// What the panel knows: the processes, the events that follow from their changes, and the figures of the last five minutes. It
// shows nothing.

const HISTORY = 300_000; // ms that the chart shows
const EVENT_AGE = 600_000; // ms for which the server keeps the processes that have ended
const MAX_EVENTS = 200;
const RATE_WINDOW = 5000; // ms over which a rate of the chart is measured: the length of the history's steps

// Of two events at the same time the one with the higher number is newer.
const ORDER = { silent: 0, back: 1, draining: 2, ended: 3, came: 4 };

export class Model {
  /** Processes by id, those that ended in the last ten minutes too. */
  processes = new Map();
  /** {key, kind, at, process}, newest first. kind: came, draining, ended, silent or back. */
  events = [];
  /** {time, rate, p50, p99}, oldest first; seconds of latency are null where there were no requests. */
  points = [];
  /** What the page's requests come through: edge, proxy or nothing. */
  via = '';

  #keys = new Set(); // of events
  #serverAhead = 0; // ms by which the server's clock is ahead of this one
  #answered = 0; // requests of all processes since the page was opened
  #counts = []; // {time, answered} of the last RATE_WINDOW

  /** The time by the server's clock, in ms. */
  now() {
    return Date.now() + this.#serverAhead;
  }

  /** The processes that have not ended. */
  get running() {
    return [...this.processes.values()].filter(({ state }) => state !== 'ended');
  }

  /** Takes in a frame. It returns the ids of the processes that have changed, and how many events are new. */
  apply({ now, via, processes, history }) {
    const time = Date.parse(now);
    this.#serverAhead = time - Date.now();
    const changed = new Set();
    if (history) {
      this.via = via;
      this.#removeOthers(processes, changed);
      this.#readHistory(history);
    }
    const events = [];
    for (const process of processes) {
      const before = this.processes.get(process.id);
      const since = before?.requests ?? (history ? process.requests : 0);
      this.#answered += Math.max(0, process.requests - since);
      this.processes.set(process.id, process);
      changed.add(process.id);
      this.#addEvents(events, process, before?.state, time);
    }
    this.#removeOld(time, changed);
    this.#addPoint(time);
    if (events.length) this.#sortEvents(events);
    return { changed, events };
  }

  /** Removes the processes that are not in the list of all. */
  #removeOthers(processes, changed) {
    const ids = new Set(processes.map(({ id }) => id));
    for (const id of this.processes.keys()) {
      if (ids.has(id)) continue;
      this.processes.delete(id);
      changed.add(id);
    }
  }

  /** Removes the processes that ended long ago: the server does not tell when it forgets them. */
  #removeOld(time, changed) {
    for (const [id, { state, seen }] of this.processes) {
      if (state !== 'ended' || Date.parse(seen) > time - EVENT_AGE) continue;
      this.processes.delete(id);
      changed.add(id);
    }
  }

  /** Adds the events that follow from a process and the state in which the page has seen it before. */
  #addEvents(events, process, before, now) {
    const add = (kind, at, once = '') => {
      const key = `${process.id} ${kind} ${once}`;
      if (this.#keys.has(key) || at < now - EVENT_AGE) return;
      this.#keys.add(key);
      events.push({ key, kind, at, process });
    };
    add('came', Date.parse(process.started));
    if (process.state === before) return;
    const seen = Date.parse(process.seen);
    if (process.state === 'draining') add('draining', before ? now : seen);
    if (process.state === 'silent') add('silent', before ? now : seen, process.seen);
    if (process.state === 'online' && before === 'silent') add('back', now, process.seen);
    if (process.state === 'ended') add('ended', this.#endOf(process, seen));
  }

  /** The time at which a process has ended: its successor was started then, or it has written so itself. */
  #endOf(process, seen) {
    for (const other of this.processes.values()) {
      if (isSuccessor(other, process)) return Math.max(seen, Date.parse(other.started));
    }
    return seen;
  }

  #sortEvents(events) {
    this.events = [...events, ...this.events].sort((a, b) => b.at - a.at || ORDER[b.kind] - ORDER[a.kind]);
    for (const { key } of this.events.splice(MAX_EVENTS)) this.#keys.delete(key);
  }

  #readHistory({ step, end, requests, p50, p99 }) {
    const last = Date.parse(end);
    this.points = requests.map((count, i) => ({
      time: last - (requests.length - 1 - i) * step * 1000, rate: count / step, p50: p50[i] || null, p99: p99[i] || null,
    }));
    this.#counts = [];
  }

  #addPoint(time) {
    this.#counts.push({ time, answered: this.#answered });
    while (this.#counts.length > 2 && this.#counts[1].time <= time - RATE_WINDOW) this.#counts.shift();
    const [first] = this.#counts;
    if (time - first.time < 1000) return; // just connected: a rate needs two frames
    const { p50, p99 } = sum(this.running);
    this.points.push({ time, rate: 1000 * (this.#answered - first.answered) / (time - first.time), p50, p99 });
    while (this.points.length && this.points[0].time < time - HISTORY) this.points.shift();
  }
}

/** Whether one process was started in the place of another one, which had ended. */
function isSuccessor(next, { machine, host, server, worker, pid }) {
  return next.predecessor?.pid === pid && next.machine === machine && next.host === host && next.server === server
    && next.worker === worker;
}

/** The figures of several processes together: p50 is their mean by requests, p99 the longest, null without requests. */
export function sum(processes) {
  const total = {
    processes: processes.length, requests: 0, errors: 0, rate: 0, p50: null, p99: null, draws: 0, connections: 0, websockets: 0,
    memory: 0, cpu: 0, restarts: 0,
  };
  let weight = 0;
  let weighted = 0;
  for (const process of processes) {
    for (const key of ['requests', 'errors', 'rate', 'draws', 'connections', 'websockets', 'memory', 'cpu', 'restarts']) {
      total[key] += process[key];
    }
    if (process.p50 === null) continue;
    const share = process.rate || 0.01; // it has answered some in the last ten seconds, but none in the last one
    weight += share;
    weighted += share * process.p50;
    total.p99 = Math.max(total.p99 ?? 0, process.p99);
  }
  if (weight) total.p50 = weighted / weight;
  return total;
}

/** The service in whose box a process is: the servers replica-1, replica-2 … of `balanza up` are one service. */
export const serviceOf = ({ service }) => service.replace(/-\d+$/, '') || service;

/** Compares names with numbers in them, and numbers. */
export const compare = (a, b) => (typeof a === 'number' ? a - b : a.localeCompare(b, 'en', { numeric: true }));
