// The page /panel: connects the websocket, the model and what shows it. Frames change the model at once; the page shows it in
// the next animation frame, so that a page in the background does no work.

import { connectBurst } from './burst.js';
import { LineChart } from './linechart.js';
import { Commands } from './panel-commands.js';
import * as format from './panel-format.js';
import { Events, showProcess, showTotals, Sums } from './panel-lists.js';
import { Model } from './panel-model.js';
import { Topology } from './panel-topology.js';
import { Socket } from './socket.js';

const $ = (id) => document.getElementById(id);
const SPAN = 300_000; // ms that the charts show
const LATE = 4000; // ms without a frame after which the figures are said to be old: the server sends one a second

const model = new Model();
const topology = new Topology(model);
const commands = new Commands();
const sums = new Sums();
const events = new Events();
const agoText = (age) => (age ? `−${age / 60_000} min` : format.text('now'));
const charts = {
  rate: new LineChart($('chart-rate'), {
    series: [{ key: 'rate' }], fill: true, format: format.number, span: SPAN, floor: 1, agoText,
  }),
  latency: new LineChart($('chart-latency'), {
    series: [{ key: 'p50' }, { key: 'p99' }], format: format.latency, span: SPAN, floor: 1e-5, logarithmic: true, agoText,
  }),
};

const changed = new Set(); // ids of processes that are not shown yet
let newEvents = [];
let first = true; // no frame is shown yet
let frame = 0; // animation frame in which the page is updated
let heard = 0; // time of the last frame
let state = 'connecting';

const socket = new Socket('/ws?panel=1');
socket.addEventListener('processes', ({ detail }) => {
  heard = performance.now();
  const { changed: ids, events: added } = model.apply(detail);
  for (const id of ids) changed.add(id);
  newEvents.push(...added);
  frame ||= requestAnimationFrame(show);
});
socket.addEventListener('state', ({ detail }) => {
  state = detail;
  showState();
});
socket.addEventListener('delayed', ({ detail }) => {
  $('delay').textContent = detail;
  $('delay').hidden = !detail;
});
topology.addEventListener('select', () => {
  showProcess(topology.selected, model.now());
  commands.show(model.running, topology.selected);
});
setInterval(() => {
  showState();
  if (document.hidden || first) return;
  topology.tick();
  showProcess(topology.selected, model.now());
}, 1000);
connectBurst($('burst'));
for (const svg of [$('chart-rate'), $('chart-latency')]) connectReading(svg);

function show() {
  frame = 0;
  topology.update(changed);
  changed.clear();
  if (first) topology.tick();
  showVia();
  showTotals(model);
  sums.show(model.running);
  if (newEvents.length) events.show(model.events);
  if (!first) events.announce(newEvents); // the first ones are what has been, not news
  newEvents = [];
  const chosen = topology.selected;
  commands.show(model.running, chosen);
  showProcess(chosen, model.now());
  for (const chart of Object.values(charts)) chart.draw(model.points, model.now());
  describeCharts();
  $('panel').dataset.ready = 'true';
  first = false;
}

/** Shows whether the figures are of now. An open connection whose server sends no figures is shown, too. */
function showState() {
  const late = state === 'open' && performance.now() - heard > LATE;
  const element = $('state');
  const shown = late ? 'waiting' : state;
  const content = late ? format.text('late') : element.dataset[state];
  if (element.dataset.state !== shown) element.dataset.state = shown;
  if (element.textContent !== content) element.textContent = content; // else screen readers would repeat it each second
  $('panel').classList.toggle('old', shown === 'waiting');
}

/** Shows what the page's requests come through. */
function showVia() {
  const entry = $('entry');
  const via = model.via || 'straight';
  if (entry.dataset.via === via) return;
  entry.dataset.via = via;
  $('entry-name').textContent = format.text(`via.${via}`);
  $('entry-text').textContent = format.text(`via.${via}.text`);
}

/** Says in words and in a table what the charts show. */
function describeCharts() {
  const { points } = model;
  if (!points.length) return;
  const last = points.at(-1);
  const highest = points.reduce((best, p) => (p.rate > best.rate ? p : best));
  const values = {
    now: format.rate(last.rate), highest: format.rate(highest.rate), time: format.time(highest.time),
    p50: format.latency(last.p50), p99: format.latency(last.p99),
  };
  $('chart-rate').ariaLabel = format.text('chart.rate.words', values);
  $('chart-latency').ariaLabel = format.text('chart.latency.words', values);
  if (!$('chart-table').closest('details').open) return;
  const rows = [];
  for (let age = 0; age < SPAN; age += 60_000) {
    const until = model.now() - age;
    const minute = points.filter(({ time }) => time <= until && time > until - 60_000);
    const answered = minute.filter(({ p50 }) => p50 !== null);
    const mean = (list, key) => list.reduce((total, p) => total + p[key], 0) / (list.length || 1);
    const row = document.createElement('tr');
    for (const content of [
      format.time(until), format.rate(mean(minute, 'rate')), format.latency(answered.length ? mean(answered, 'p50') : null),
      format.latency(answered.length ? Math.max(...answered.map(({ p99 }) => p99)) : null),
    ]) row.insertCell().textContent = content;
    rows.push(row);
  }
  $('chart-table').tBodies[0].replaceChildren(...rows);
}

/** Shows the values at the pointer, or those that the arrow keys choose, in both charts. */
function connectReading(svg) {
  const chart = svg === $('chart-rate') ? charts.rate : charts.latency;
  let point = null;
  const read = (chosen) => {
    point = chosen;
    for (const each of Object.values(charts)) each.mark(point);
    $('chart-reading').textContent = point ? format.text('chart.reading', {
      time: format.time(point.time), rate: format.rate(point.rate), p50: format.latency(point.p50), p99: format.latency(point.p99),
    }) : '';
  };
  svg.addEventListener('pointermove', ({ clientX }) => read(chart.pointAt(clientX)));
  svg.addEventListener('pointerleave', () => read(null));
  svg.addEventListener('blur', () => read(null));
  svg.addEventListener('keydown', (event) => {
    const step = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    if (!step || !model.points.length) return;
    event.preventDefault();
    const here = model.points.indexOf(point);
    const last = model.points.length - 1;
    read(model.points[here < 0 ? last : Math.min(last, Math.max(0, here + step))]);
  });
}
