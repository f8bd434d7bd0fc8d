// The lists of the panel: figures of all processes together, sums of services and servers, events, and one chosen process.

import * as format from './panel-format.js';
import { compare, serviceOf, sum } from './panel-model.js';

const $ = (id) => document.getElementById(id);
const SHOWN_EVENTS = 100;
const ANNOUNCE_INTERVAL = 5000; // ms between two announcements to screen readers

/** Writes a text unless it is there already. */
function write(element, content) {
  if (element.textContent !== content) element.textContent = content;
}

/** Shows the figures of all processes together. */
export function showTotals(model) {
  const processes = model.running;
  const total = sum(processes);
  const distinct = (key) => new Set(processes.map((p) => p[key])).size;
  const online = processes.filter(({ state }) => state === 'online').length;
  const values = {
    rate: format.rate(total.rate), p50: format.latency(total.p50), p99: format.latency(total.p99), errors: format.count(total.errors),
    processes: online === processes.length ? format.count(online) : `${format.count(online)} / ${format.count(processes.length)}`,
    servers: format.count(new Set(processes.map(({ host, server }) => `${host} ${server}`)).size),
    machines: format.count(distinct('machine')), websockets: format.count(total.websockets), memory: format.size(total.memory),
    cpu: format.percent(total.cpu),
  };
  for (const [name, value] of Object.entries(values)) write($(`total-${name}`), value);
  $('total-errors').classList.toggle('bad', total.errors > 0);
}

const COLUMNS = {
  processes: format.count, requests: format.count, errors: format.count, rate: format.rate, p50: format.latency, p99: format.latency,
  draws: format.count, connections: format.count, websockets: format.count, memory: format.size, cpu: format.percent,
  restarts: format.count,
};

/** The table of sums: a row for each service, and one for each of its servers when it has several. */
export class Sums {
  #body = $('sums').tBodies[0];
  #rows = new Map(); // service, or service and server → row

  show(processes) {
    const groups = new Map(); // key → {name, isServer, processes}
    const add = (key, name, isServer, process) => {
      if (!groups.has(key)) groups.set(key, { name, isServer, processes: [] });
      groups.get(key).processes.push(process);
    };
    const servers = Map.groupBy(processes, serviceOf);
    for (const [service, members] of [...servers].sort(([a], [b]) => compare(a, b))) {
      const several = new Set(members.map(({ server }) => server)).size > 1;
      for (const process of members) add(service, service, false, process);
      if (!several) continue;
      for (const process of members.toSorted((a, b) => compare(a.server, b.server))) {
        add(`${service} ${process.server}`, process.server, true, process);
      }
    }
    for (const [key, row] of this.#rows) {
      if (groups.has(key)) continue;
      row.remove();
      this.#rows.delete(key);
    }
    let before = null;
    for (const [key, group] of groups) {
      const row = this.#rows.get(key) ?? this.#add(key, group);
      const total = sum(group.processes);
      Object.entries(COLUMNS).forEach(([name, show], i) => write(row.cells[i + 1], show(total[name])));
      const next = before ? before.nextSibling : this.#body.firstChild;
      if (next !== row) this.#body.insertBefore(row, next);
      before = row;
    }
  }

  #add(key, { name, isServer }) {
    const row = document.createElement('tr');
    const head = document.createElement('th');
    head.scope = 'row';
    head.textContent = name;
    row.append(head);
    for (const column of Object.keys(COLUMNS)) row.insertCell().className = `number column-${column}`;
    row.className = isServer ? 'server-row' : 'service-row';
    this.#rows.set(key, row);
    return row;
  }
}

/** The list of events, newest first. */
export class Events {
  #list = $('events');
  #items = new Map(); // event's key → element
  #announced = 0; // time of the last announcement
  #waiting = []; // events that are not announced yet
  #timer = 0;

  show(events) {
    const shown = events.slice(0, SHOWN_EVENTS);
    const keys = new Set(shown.map(({ key }) => key));
    for (const [key, item] of this.#items) {
      if (keys.has(key)) continue;
      item.remove();
      this.#items.delete(key);
    }
    let before = null;
    for (const event of shown) {
      let item = this.#items.get(event.key);
      if (!item) {
        item = eventItem(event);
        this.#items.set(event.key, item);
      }
      const next = before ? before.nextSibling : this.#list.firstChild;
      if (next !== item) this.#list.insertBefore(item, next);
      before = item;
    }
    $('events-empty').hidden = shown.length > 0;
  }

  /** Tells screen readers of new events: how many of each kind, once in a few seconds. */
  announce(events) {
    this.#waiting.push(...events);
    if (this.#timer || !this.#waiting.length) return;
    this.#timer = setTimeout(() => {
      const kinds = Map.groupBy(this.#waiting, ({ kind }) => kind);
      const parts = [...kinds].map(([kind, { length }]) => format.text(`announce.${kind}`, { n: length }));
      $('announcement').textContent = parts.join(' ');
      this.#waiting = [];
      this.#timer = 0;
      this.#announced = performance.now();
    }, Math.max(500, this.#announced + ANNOUNCE_INTERVAL - performance.now()));
  }
}

function eventItem({ kind, at, process }) {
  const item = $('event-template').content.firstElementChild.cloneNode(true);
  item.dataset.kind = kind;
  item.dataset.pid = process.pid;
  const when = item.querySelector('time');
  when.textContent = format.time(at);
  when.dateTime = new Date(at).toISOString();
  const { server, predecessor } = process;
  const name = format.processName(process);
  item.querySelector('.event-what').textContent = format.text(`event.${kind}`, { name, server });
  let why = '';
  if (kind === 'ended' || kind === 'draining') why = format.cause(process.cause);
  if (kind === 'came' && predecessor) why = format.text('replaces', { pid: predecessor.pid, cause: format.cause(predecessor.cause) });
  item.querySelector('.event-why').textContent = why;
  return item;
}

/** Shows everything that is known of the chosen process, or hides the place for it. */
export function showProcess(process, now) {
  $('process').hidden = !process;
  if (!process) return;
  write($('process-title'), `${format.processName(process)} · ${process.server}`);
  const values = {
    state: format.text(`state.${process.state}`) + (process.cause ? `: ${format.cause(process.cause)}` : ''),
    service: process.service, mode: process.mode, host: process.host, machine: process.machine, version: process.version,
    started: format.time(Date.parse(process.started)),
    uptime: process.state === 'ended' ? '–' : format.duration(now - Date.parse(process.started)),
    requests: format.count(process.requests), errors: format.count(process.errors), rate: format.rate(process.rate),
    p50: format.latency(process.p50), p99: format.latency(process.p99), memory: format.size(process.memory),
    cpu: format.percent(process.cpu), draws: format.count(process.draws), connections: format.count(process.connections),
    websockets: format.count(process.websockets), restarts: format.count(process.restarts),
  };
  for (const [name, value] of Object.entries(values)) write($(`process-${name}`), value);
}
