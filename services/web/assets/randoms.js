// The page of random numbers: it asks the server to draw, shows how far the draw is, and then its histogram.

import { connectBurst, fill } from './burst.js';
import { Histogram, statistics, toList } from './histogram.js';

const $ = (id) => document.getElementById(id);
const ENOUGH = 5000; // draws, five of each number, from which chi-square says something
const LEFT_AFTER = 1; // seconds, from which the time that is left can be told
const texts = $('randoms').dataset;
const language = document.documentElement.lang;
const number = formatter({ maximumFractionDigits: 0 });
const decimal = formatter({ maximumFractionDigits: 1 });
const precise = formatter({ maximumSignificantDigits: 3 });
const percent = formatter({ style: 'percent', maximumFractionDigits: 1 });
const share = formatter({ style: 'percent', minimumFractionDigits: 2, maximumFractionDigits: 2 });
const deviation = formatter({ style: 'percent', minimumSignificantDigits: 2, maximumSignificantDigits: 2, signDisplay: 'exceptZero' });
const words = formatter({ notation: 'compact', compactDisplay: 'long', maximumSignificantDigits: 3 });

const picture = new Histogram($('histogram'), number);
let running = null; // the AbortController of the draw, null when there is none
let shown = null; // the list and the statistics of the histogram

connectBurst($('burst'));
connectForm();
connectPicture();

function connectForm() {
  const input = $('cant');
  group(input);
  input.addEventListener('input', () => group(input));
  $('presets').hidden = false;
  for (const preset of $('presets').children) {
    preset.addEventListener('click', () => {
      input.value = number(preset.dataset.cant);
      markInvalid(false);
    });
  }
  $('draw-form').addEventListener('submit', (event) => {
    event.preventDefault();
    if (!running) draw(input.value.replace(/\D/g, ''));
  });
  $('draw-cancel').addEventListener('click', () => running?.abort());
}

function connectPicture() {
  picture.onPoint((chosen) => {
    $('number').value = chosen;
    showNumber();
  });
  $('number').addEventListener('input', showNumber);
  $('zero').addEventListener('change', showPicture);
}

/** Groups the digits of a field while its user types, and leaves the caret behind the same digit. */
function group(input) {
  const digitsBefore = input.value.slice(0, input.selectionStart).replace(/\D/g, '').length;
  const digits = input.value.replace(/\D/g, '').replace(/^0+(?=\d)/, '');
  input.value = digits && number(digits);
  if (input !== document.activeElement) return; // Safari would focus it
  let caret = 0;
  for (let seen = 0; seen < digitsBefore && caret < input.value.length; caret++) {
    if (/\d/.test(input.value[caret])) seen++;
  }
  input.setSelectionRange(caret, caret);
}

/** Asks the server for n numbers, a text of digits, and shows what comes. */
async function draw(n) {
  const controller = running = new AbortController();
  const began = performance.now();
  const seconds = () => (performance.now() - began) / 1000;
  begin();
  let progress = null;
  try {
    const answer = await fetch(`/api/randoms?cant=${n}`, {
      headers: { Accept: 'text/event-stream, application/json;q=0.9' }, cache: 'no-store', signal: controller.signal,
    });
    if (!answer.ok) {
      showError(answer.status);
      return;
    }
    const who = (name) => answer.headers.get(`X-Balanza-${name}`);
    const process = { server: who('Server'), pid: who('Pid'), worker: Number(who('Worker')) };
    $('progress-who').textContent = `${process.server}, ${describe(process)}`;
    let last = 'progress';
    for await (const { name, data } of events(answer.body)) { // to its end, so that the connection can be used again
      last = name;
      if (name === 'progress') showProgress(progress = data, seconds());
      else if (name === 'result') showResult(data, process, seconds());
      else showError(data.status);
    }
    if (last === 'progress') showError('broken', progress);
  } catch {
    if (controller.signal.aborted) showError('cancelled', progress);
    else showError(progress ? 'broken' : 'unreachable', progress);
  } finally {
    end();
  }
}

/** The Server-Sent Events of an answer, { name, data }. EventSource would connect again, and draw again, at each end. */
async function* events(body) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let text = '';
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    const blocks = (text + value).split('\n\n');
    text = blocks.pop();
    for (const block of blocks) {
      const [, name, data] = block.match(/^event: (.*)\ndata: (.*)$/);
      yield { name, data: JSON.parse(data) };
    }
  }
}

function begin() {
  showError(null);
  $('draw').ariaDisabled = 'true'; // "disabled" would move the focus away
  $('draw-cancel').hidden = false;
  $('draw-progress').hidden = false;
  $('progress').removeAttribute('value'); // until the server says how far it is
  for (const id of ['progress-percent', 'progress-left', 'progress-who', 'result-summary']) $(id).textContent = '';
  $('result').ariaBusy = 'true';
}

function end() {
  running = null;
  $('draw').ariaDisabled = null;
  if (document.activeElement === $('draw-cancel')) $('draw').focus(); // else the focus is gone with the button
  $('draw-cancel').hidden = true;
  $('draw-progress').hidden = true;
  $('result').ariaBusy = null;
}

function showProgress({ drawn, of }, seconds) {
  $('progress').value = drawn / of;
  $('progress-percent').textContent = fill(texts.percent, { percent: percent(drawn / of), drawn: number(drawn) });
  const left = (of - drawn) * seconds / drawn;
  $('progress-left').textContent = seconds > LEFT_AFTER && drawn > 0 ? fill(texts.left, { time: duration(Math.ceil(left)) }) : '';
}

function showResult(counts, process, seconds) {
  const list = toList(counts);
  const stats = statistics(list);
  shown = { list, stats };
  $('result-empty').hidden = true;
  $('result-shown').hidden = false;
  $('zero-label').hidden = false;

  showPicture();
  const times = (count) => `${fill(texts.times, { n: number(count) })} (${deviation(count / stats.mean - 1)})`;
  $('mean').textContent = decimal(stats.mean);
  $('rarest').textContent = number(stats.rarest.number);
  $('rarest-times').textContent = times(stats.rarest.times);
  $('commonest').textContent = number(stats.commonest.number);
  $('commonest-times').textContent = times(stats.commonest.times);
  $('chi').textContent = decimal(stats.chi);
  $('who').textContent = process.server;
  $('who-process').textContent = describe(process);
  $('took').textContent = duration(seconds);
  $('speed').textContent = fill(texts.speed, { n: words(stats.sum / seconds) });
  const [kind, verdict] = judge(stats);
  $('verdict').dataset.kind = kind;
  $('verdict').textContent = verdict;
  $('result-summary').textContent = `${fill(texts.summary, {
    n: number(stats.sum), time: duration(seconds), mean: decimal(stats.mean),
    least: number(stats.rarest.times), most: number(stats.commonest.times),
  })} ${verdict}`;
  showGroups(list, stats.sum);
}

/** What chi-square says of a draw: a kind, for the style, and a text. */
function judge({ sum, chi, p }) {
  if (sum < ENOUGH) return ['few', fill(texts.few, { n: number(ENOUGH) })];
  const kind = p < 1e-6 ? 'unfair' : p < 0.01 ? 'uneven' : p > 0.99 ? 'even' : 'fair';
  const part = p < 0.001 ? fill(texts.under, { p: percent(0.001) }) : percent(p);
  return [kind, `${fill(texts.chi, { chi: decimal(chi), p: part })} ${texts[kind]}`];
}

function showPicture() {
  picture.draw(shown.list, shown.stats, $('zero').checked);
  showNumber();
}

/** Shows how often the number of the slider came. */
function showNumber() {
  if (!shown) return;
  const chosen = $('number').valueAsNumber;
  const count = shown.list[chosen - 1];
  const text = fill(texts.number, {
    number: number(chosen), n: number(count), deviation: deviation(count / shown.stats.mean - 1),
  });
  $('number-times').textContent = text;
  $('number').setAttribute('aria-valuetext', text);
  picture.mark(chosen);
}

/** Fills the table, which has the counts by hundreds. */
function showGroups(list, sum) {
  const rows = [];
  for (let first = 0; first < list.length; first += 100) {
    const part = list.slice(first, first + 100);
    const drawn = part.reduce((a, b) => a + b, 0);
    const row = document.createElement('tr');
    const head = document.createElement('th');
    head.scope = 'row';
    head.textContent = `${number(first + 1)}–${number(first + 100)}`;
    row.append(head);
    for (const text of [number(drawn), share(drawn / sum), number(Math.min(...part)), number(Math.max(...part))]) {
      const cell = row.insertCell();
      cell.className = 'number';
      cell.textContent = text;
    }
    rows.push(row);
  }
  $('groups').querySelector('tbody').replaceChildren(...rows);
}

/** Shows what went wrong, by the status of the answer or a name, and what the user can do; null removes it. */
function showError(kind, progress) {
  const error = $('draw-error');
  error.hidden = kind === null;
  markInvalid(kind === 400);
  if (kind === null) return;
  const key = { 400: 'invalid', 429: 'busy', 502: 'away', 503: 'away', 504: 'away' }[kind] ?? kind;
  const done = progress ? progress.drawn / progress.of : 0;
  error.textContent = fill(texts[key] ?? texts.other, { status: kind, percent: percent(done) });
  error.classList.toggle('error', kind !== 'cancelled');
  error.classList.toggle('done', kind === 'cancelled');
  if (kind === 400) $('cant').focus();
}

function markInvalid(invalid) {
  $('cant').ariaInvalid = invalid ? 'true' : null;
  $('cant').setAttribute('aria-describedby', invalid ? 'draw-error' : 'cant-hint');
}

/** A process in words. Only a CLUSTER has workers. */
function describe({ pid, worker }) {
  return fill(worker ? texts.worker : texts.who, { pid, worker });
}

/** A time in words. */
function duration(seconds) {
  if (seconds < 60) return `${precise(seconds)}\u00a0s`;
  const whole = Math.round(seconds);
  return fill(texts.minutes, { minutes: number(Math.floor(whole / 60)), seconds: whole % 60 });
}

function formatter(options) {
  const format = new Intl.NumberFormat(language, options);
  return (value) => format.format(value);
}
