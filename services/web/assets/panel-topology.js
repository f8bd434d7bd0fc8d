// The topology as a picture: what requests come through, the services, their servers, and a tile for each process, grouped by
// machine when there are several. Lines lead from each to the next. Only what has changed is written to the page.

import * as format from './panel-format.js';
import { node } from './linechart.js';
import { compare, serviceOf, sum } from './panel-model.js';

const $ = (id) => document.getElementById(id);
const LINGER = 10_000; // ms for which a process that has ended stays in the picture
const SPARK_POINTS = 60;
const BUSY_RATE = 1000; // requests a second at which a pulse has its full strength
const DETAILED = 18; // processes that are shown with all figures, on a wide page
const DETAILED_NARROW = 4;
const MEDIUM = 64; // processes that are shown with some figures; more are shown in one small cell each
const NARROW = 640; // px
const MANY_FILTER = 12; // processes from which on the filter is shown
const calm = matchMedia('(prefers-reduced-motion: reduce)');

/** The shape of each state, in a box of 10 × 10: a state is not told by colour alone. */
const SHAPES = {
  online: 'M5 1a4 4 0 1 1 0 8a4 4 0 0 1 0-8z',
  draining: 'M1 2h8L5 9z',
  silent: 'M5 .5 9.5 5 5 9.5.5 5z',
  ended: 'M1 2.4 2.4 1 5 3.6 7.6 1 9 2.4 6.4 5 9 7.6 7.6 9 5 6.4 2.4 9 1 7.6 3.6 5z',
};

/** Events: 'select' when the user has chosen another process. */
export class Topology extends EventTarget {
  #model;
  #root = $('topology');
  #links = $('topology-links');
  #machines = $('topology-machines');
  #tiles = new Map(); // process's id → Tile
  #services = new Map(); // machine and service → Service
  #machineBoxes = new Map(); // machine → element
  #selected = null; // a process's id
  #words = []; // of the filter
  #lingering = 0; // timer
  #drawing = 0; // animation frame in which the lines are drawn

  constructor(model) {
    super();
    this.#model = model;
    new ResizeObserver(() => this.#layOut()).observe(this.#root);
    this.#root.addEventListener('click', (event) => this.#onClick(event));
    this.#root.addEventListener('keydown', (event) => this.#onKey(event));
    $('filter').addEventListener('input', ({ target }) => this.#filter(target.value));
  }

  /** The process that the user has chosen, undefined without one. */
  get selected() {
    return this.#model.processes.get(this.#selected);
  }

  /** Shows the processes with these ids, which have changed, appeared or disappeared. */
  update(ids) {
    const services = new Set();
    let structure = false;
    for (const id of ids) {
      const process = this.#model.processes.get(id);
      const tile = this.#tiles.get(id);
      if (process && this.#isShown(process)) {
        structure ||= tile?.process.state !== process.state;
        tile?.show(process);
        tile?.service.place(tile);
        services.add((tile ?? this.#add(process)).service);
      } else if (tile) {
        services.add(tile.service);
        this.#remove(id);
        structure = true;
      }
    }
    for (const service of services) service.showSum();
    $('topology-empty').hidden = this.#tiles.size > 0;
    if (structure) this.#layOut();
    else this.#showLinks();
  }

  /** Updates what depends on the time alone, once a second. */
  tick() {
    const detailed = this.#root.dataset.density === 'detailed';
    for (const tile of this.#tiles.values()) tile.tick(this.#model.now(), detailed);
    for (const service of this.#services.values()) service.tick();
  }

  #isShown({ state, seen }) {
    const left = Date.parse(seen) + LINGER - this.#model.now();
    if (state !== 'ended' || left <= 0) return state !== 'ended';
    clearTimeout(this.#lingering);
    this.#lingering = setTimeout(() => this.#removeEnded(), left + 100);
    return true;
  }

  #removeEnded() {
    this.update([...this.#tiles].filter(([, tile]) => tile.process.state === 'ended').map(([id]) => id));
  }

  #add(process) {
    const machine = process.machine;
    const name = serviceOf(process);
    const key = JSON.stringify([machine, name]);
    let service = this.#services.get(key);
    if (!service) {
      service = new Service(key, name);
      this.#services.set(key, service);
      insertSorted(this.#machineBox(machine).querySelector('.services'), service.element, name);
    }
    const tile = new Tile(process, service);
    this.#tiles.set(process.id, tile);
    service.add(tile);
    tile.select(process.id === this.#selected);
    tile.element.hidden = !this.#matches(process);
    return tile;
  }

  #machineBox(machine) {
    let box = this.#machineBoxes.get(machine);
    if (!box) {
      box = clone('machine-template');
      box.querySelector('.machine-name').textContent = format.text('machine', { name: shortMachine(machine) });
      box.title = machine;
      this.#machineBoxes.set(machine, box);
      insertSorted(this.#machines, box, machine);
    }
    return box;
  }

  #remove(id) {
    const tile = this.#tiles.get(id);
    this.#tiles.delete(id);
    const { service, process } = tile;
    service.remove(tile);
    if (service.tiles.size) return;
    this.#services.delete(service.key);
    service.element.remove();
    if ([...this.#services.keys()].some((key) => JSON.parse(key)[0] === process.machine)) return;
    this.#machineBoxes.get(process.machine).remove();
    this.#machineBoxes.delete(process.machine);
  }

  /** Chooses how much a tile shows, by the number of tiles and the width, and then draws the lines. */
  #layOut() {
    const visible = [...this.#tiles.values()].filter(({ element, service }) => !element.hidden && service.open).length;
    const detailed = this.#root.clientWidth < NARROW ? DETAILED_NARROW : DETAILED;
    this.#root.dataset.density = visible <= detailed ? 'detailed' : visible <= MEDIUM ? 'medium' : 'small';
    this.#root.dataset.machines = this.#machineBoxes.size > 1 ? 'several' : 'one';
    $('filter-field').hidden = this.#tiles.size < MANY_FILTER && !this.#words.length;
    this.#showLinks();
  }

  /** Draws the lines in the next frame, once: reading positions makes the browser lay out the page. */
  #showLinks() {
    if (this.#drawing) return;
    this.#drawing = requestAnimationFrame(() => {
      this.#drawing = 0;
      this.#drawLinks();
    });
  }

  #drawLinks() {
    const origin = this.#root.getBoundingClientRect();
    const box = (element) => {
      const r = element.getBoundingClientRect();
      return { left: r.left - origin.left, right: r.right - origin.left, top: r.top - origin.top, bottom: r.bottom - origin.top };
    };
    const narrow = origin.width < NARROW;
    const entry = box($('entry'));
    const links = [];
    for (const service of this.#services.values()) {
      if (!service.element.checkVisibility()) continue;
      const head = box(service.head);
      const rate = service.rate;
      links.push({ service, rate, path: narrow ? branch(entry, head) : curve(entry, head) });
      if (narrow) continue;
      for (const server of service.rows()) links.push({ service, rate: 0, path: curve(head, box(server)) });
    }
    this.#links.replaceChildren(...links.flatMap(({ path, rate }) => {
      const width = 1.5 + 2.5 * strength(rate);
      const line = node('path', { d: path, class: 'link', 'stroke-width': width });
      if (!rate) return [line];
      return [line, this.#flow(path, width, rate)];
    }));
  }

  /** A line of dots that runs along a path, the faster the more requests there are. */
  #flow(d, width, rate) {
    const dots = node('path', { d, class: 'flow', 'stroke-width': width + 1.5 });
    if (calm.matches) return dots;
    const period = 1600 - 1200 * strength(rate); // ms in which the dots move by one
    const animation = dots.animate({ strokeDashoffset: [16, 0] }, { duration: period, iterations: Infinity });
    animation.startTime = 0; // goes on where the dots of the frame before were
    return dots;
  }

  #onClick(event) {
    const toggle = event.target.closest('.service-toggle');
    if (toggle) {
      const service = [...this.#services.values()].find(({ element }) => element.contains(toggle));
      service.toggle();
      this.#layOut();
      return;
    }
    const tile = event.target.closest('.tile');
    if (tile) this.#select(tile.dataset.id, event.target.closest('.tile-name'));
  }

  #select(id) {
    this.#tiles.get(this.#selected)?.select(false);
    this.#selected = id === this.#selected ? null : id;
    this.#tiles.get(this.#selected)?.select(true);
    this.dispatchEvent(new Event('select'));
  }

  /** The arrow keys move between the processes of a service, of which one is reached by Tab. */
  #onKey(event) {
    if (!event.target.matches('.tile-name')) return;
    const names = [...event.target.closest('.service').querySelectorAll('.tile:not([hidden]) .tile-name')];
    const here = names.indexOf(event.target);
    const next = {
      ArrowRight: here + 1, ArrowDown: here + 1, ArrowLeft: here - 1, ArrowUp: here - 1, Home: 0, End: names.length - 1,
    }[event.key];
    if (next === undefined || !names[next]) return;
    event.preventDefault();
    names[next].focus();
    for (const name of names) name.tabIndex = name === names[next] ? 0 : -1;
  }

  #filter(value) {
    this.#words = value.toLowerCase().split(/\s+/).filter(Boolean);
    for (const { element, process } of this.#tiles.values()) element.hidden = !this.#matches(process);
    let shown = 0;
    for (const service of this.#services.values()) shown += service.showFiltered();
    for (const box of this.#machineBoxes.values()) box.hidden = !box.querySelector('.service:not([hidden])');
    $('filter-result').textContent = this.#words.length ? format.text('filter.result', { shown, all: this.#tiles.size }) : '';
    this.#layOut();
  }

  /** Whether a process has all words of the filter. */
  #matches({ service, server, host, machine, pid, worker, state, version, mode }) {
    const haystack = [service, server, host, machine, pid, `worker ${worker}`, state, format.text(`state.${state}`), version, mode]
      .join(' ').toLowerCase();
    return this.#words.every((word) => haystack.includes(word));
  }
}

/** A service on one machine: its name, its sum, and its servers with their tiles. */
class Service {
  key;
  element = clone('service-template');
  tiles = new Set();
  open = true;
  rate = 0;

  #servers = new Map(); // name → element
  #toggle = this.element.querySelector('.service-toggle');
  #spark = new Spark(this.element.querySelector('.spark'));
  #figures = new Fields(this.element);

  constructor(key, name) {
    this.key = key;
    this.element.dataset.service = name;
    this.element.querySelector('.service-name').textContent = name;
    this.element.querySelector('.servers').ariaLabel = format.text('servers.of', { service: name });
  }

  get head() {
    return this.element.querySelector('.service-head');
  }

  /** The first server of each row: a line leads to each. */
  rows() {
    if (!this.open) return [];
    const left = this.element.querySelector('.servers').offsetLeft;
    return [...this.#servers.values()].filter((server) => !server.hidden && server.offsetLeft <= left + 2);
  }

  add(tile) {
    this.tiles.add(tile);
    const name = tile.process.server;
    let server = this.#servers.get(name);
    if (!server) {
      server = clone('server-template');
      server.querySelector('.server-name').textContent = name;
      server.querySelector('.server-mode').textContent = tile.process.mode;
      this.#servers.set(name, server);
      insertSorted(this.element.querySelector('.servers'), server, name);
    }
    this.place(tile);
    this.#keepTabStop();
  }

  /** Puts a tile among those of the processes that run, or of those that have ended. */
  place({ element, process: { server, state, worker, started } }) {
    const list = this.#servers.get(server).querySelector(state === 'ended' ? '.ended-tiles' : '.tiles');
    if (element.parentElement === list) return;
    const focused = element.contains(document.activeElement) && document.activeElement;
    insertSorted(list, element, `${worker} ${Date.parse(started)}`);
    if (focused) focused.focus();
  }

  remove(tile) {
    this.tiles.delete(tile);
    const focused = tile.element.contains(document.activeElement);
    const server = this.#servers.get(tile.process.server);
    tile.element.remove();
    if (!server.querySelector('.tile')) {
      server.remove();
      this.#servers.delete(tile.process.server);
    }
    this.#keepTabStop();
    if (focused) this.element.querySelector('.tile-name[tabindex="0"]')?.focus();
  }

  /** One process of the service is reached by Tab. */
  #keepTabStop() {
    const names = [...this.element.querySelectorAll('.tile:not([hidden]) .tile-name')];
    if (names.length && !names.some(({ tabIndex }) => tabIndex === 0)) names[0].tabIndex = 0;
  }

  showSum() {
    const processes = [...this.tiles].map(({ process }) => process).filter(({ state }) => state !== 'ended');
    const total = sum(processes);
    this.rate = total.rate;
    const servers = new Set(processes.map(({ server }) => server)).size;
    const [word, countWord] = servers > 1 ? ['servers', 'processes'] : ['', processes.length === 1 ? 'process.one' : 'processes'];
    this.#figures.set('rate', format.rate(total.rate));
    this.#figures.set('size', [word && format.text(`count.${word}`, { n: servers }),
      format.text(`count.${countWord}`, { n: processes.length })].filter(Boolean).join(' · '));
    this.#figures.set('latency', total.p50 === null ? '' : `p50 ${format.latency(total.p50)} · p99 ${format.latency(total.p99)}`);
  }

  tick() {
    this.#spark.add(this.rate);
  }

  toggle() {
    this.open = !this.open;
    this.#toggle.ariaExpanded = String(this.open);
    this.element.querySelector('.servers').hidden = !this.open;
  }

  /** Hides servers without a visible tile, and itself without any. It returns how many tiles are visible. */
  showFiltered() {
    for (const server of this.#servers.values()) server.hidden = !server.querySelector('.tile:not([hidden])');
    const shown = this.element.querySelectorAll('.tile:not([hidden])').length;
    this.element.hidden = shown === 0;
    for (const hidden of this.element.querySelectorAll('.tile[hidden] .tile-name')) hidden.tabIndex = -1;
    this.#keepTabStop();
    return shown;
  }
}

/** The tile of a process. */
class Tile {
  process;
  service;
  element = clone('tile-template');

  #name = this.element.querySelector('.tile-name');
  #fields = new Fields(this.element);
  #spark = new Spark(this.element.querySelector('.spark'));
  #pulse = this.element.querySelector('.pulse');
  #shape = this.element.querySelector('.shape path');

  constructor(process, service) {
    this.service = service;
    this.element.dataset.id = process.id;
    this.element.dataset.pid = process.pid;
    this.#fields.set('worker', process.worker ? String(process.worker) : '');
    this.#fields.set('pid', String(process.pid));
    this.#fields.set('version', process.version);
    this.show(process);
  }

  show(process) {
    const { state } = process;
    this.process = process;
    if (this.element.dataset.state !== state) {
      this.element.dataset.state = state;
      this.#shape.setAttribute('d', SHAPES[state]);
      this.#fields.set('state', format.text(`state.${state}`));
    }
    const f = this.#fields;
    const ended = state === 'ended';
    f.set('rate', ended ? '' : format.rate(process.rate));
    f.set('p50', format.latency(process.p50));
    f.set('p99', format.latency(process.p99));
    f.set('memory', format.size(process.memory));
    f.set('cpu', format.percent(process.cpu));
    f.set('draws', format.count(process.draws));
    f.set('websockets', format.count(process.websockets));
    f.set('restarts', format.count(process.restarts));
    f.set('cause', process.cause && format.cause(process.cause));
    this.#name.title = `${format.processName(process)} · ${format.text(`state.${state}`)} · ${format.rate(process.rate)}`;
    if (!ended && process.rate) this.#beat(process.rate);
  }

  /** Shows the uptime, and the last rates where tiles have room for them. */
  tick(now, detailed) {
    if (this.process.state === 'ended') return;
    this.#fields.set('uptime', format.duration(now - Date.parse(this.process.started)));
    if (detailed) this.#spark.add(this.process.rate);
  }

  select(selected) {
    this.#name.ariaPressed = String(selected);
    this.element.classList.toggle('selected', selected);
  }

  /** One pulse, the stronger the more requests are answered. Only its opacity changes, so that nothing is laid out. */
  #beat(rate) {
    if (calm.matches || document.hidden) return;
    this.#pulse.animate({ opacity: [0.35 + 0.65 * strength(rate), 0] }, { duration: 950, easing: 'ease-out' });
  }
}

/** A small line of the last rates. */
class Spark {
  #line;
  #rates = [];

  constructor(svg) {
    this.#line = svg.appendChild(node('polyline'));
  }

  add(rate) {
    this.#rates.push(rate);
    if (this.#rates.length > SPARK_POINTS) this.#rates.shift();
    const top = Math.max(1, ...this.#rates);
    const skip = SPARK_POINTS - this.#rates.length;
    this.#line.setAttribute('points', this.#rates.map((r, i) => `${skip + i},${(15 - 14 * r / top).toFixed(1)}`).join(' '));
  }
}

/** The elements with data-field in a template's copy. A text is written only when it is another one. */
class Fields {
  #elements = new Map();
  #texts = new Map();

  constructor(root) {
    for (const element of root.querySelectorAll('[data-field]')) this.#elements.set(element.dataset.field, element);
  }

  set(name, value) {
    if (this.#texts.get(name) === value) return;
    this.#texts.set(name, value);
    this.#elements.get(name).textContent = value;
  }
}

/** How much of BUSY_RATE a rate is, from 0 to 1, on a logarithmic scale. */
function strength(rate) {
  return Math.min(1, Math.log1p(rate) / Math.log1p(BUSY_RATE));
}

/** A curve from the right edge of a box to the left edge of another one. */
function curve(from, to) {
  const [x1, y1, x2, y2] = [from.right, (from.top + from.bottom) / 2, to.left, (to.top + to.bottom) / 2];
  const middle = (x1 + x2) / 2;
  return `M${x1} ${y1}C${middle} ${y1} ${middle} ${y2} ${x2} ${y2}`;
}

/** On a narrow page: down from the lower edge of a box near its left side, then to the left edge of another one. */
function branch(from, to) {
  const x = from.left + 8;
  const y = (to.top + to.bottom) / 2;
  return `M${x} ${from.bottom}V${y - 8}Q${x} ${y} ${x + 8} ${y}H${to.left}`;
}

/** A machine's name, or the first digits of the kernel's boot id. */
function shortMachine(machine) {
  return /^[0-9a-f]{8}-[0-9a-f]{4}-/.test(machine) ? machine.slice(0, 8) : machine;
}

function clone(template) {
  return $(template).content.firstElementChild.cloneNode(true);
}

/** Inserts an element among its siblings, which are sorted by name. */
function insertSorted(parent, element, name) {
  element.dataset.order = name;
  const next = [...parent.children].find((other) => compare(other.dataset.order, name) > 0);
  parent.insertBefore(element, next ?? null);
}
