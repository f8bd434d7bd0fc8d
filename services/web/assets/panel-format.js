// Numbers, times and texts of the panel in the page's language.

const LANGUAGE = document.documentElement.lang;
const TEXTS = JSON.parse(document.getElementById('panel-texts').textContent);

/** The text of a key, with {name} replaced by values. */
export function text(key, values = {}) {
  return (TEXTS[key] ?? key).replace(/\{(\w+)\}/g, (_, name) => values[name]);
}

/** Whether there is a text of that key. */
export const hasText = (key) => key in TEXTS;

const whole = new Intl.NumberFormat(LANGUAGE, { maximumFractionDigits: 0 });
const tenth = new Intl.NumberFormat(LANGUAGE, { maximumFractionDigits: 1 });
const hundredth = new Intl.NumberFormat(LANGUAGE, { maximumFractionDigits: 2 });
const compact = new Intl.NumberFormat(LANGUAGE, { notation: 'compact', maximumFractionDigits: 1 });
const clock = new Intl.DateTimeFormat(LANGUAGE, { hour: '2-digit', minute: '2-digit', second: '2-digit', hourCycle: 'h23' });

/** A number with about three digits. */
export function number(n) {
  if (n >= 100) return (n >= 10_000 ? compact : whole).format(n);
  return (n >= 10 ? tenth : hundredth).format(n);
}

/** A count that may be large. */
export const count = (n) => (n >= 100_000 ? compact : whole).format(n);

/** Requests a second. */
export const rate = (n) => `${number(n)}/s`;

/** A latency, given in seconds or null. */
export function latency(seconds) {
  if (seconds === null) return '–';
  if (seconds < 0.0009995) return `${whole.format(seconds * 1e6)} µs`;
  const [n, unit] = seconds < 1 ? [seconds * 1000, 'ms'] : [seconds, 's'];
  return `${(n < 100 ? tenth : whole).format(n)} ${unit}`;
}

/** A size, given in bytes. */
export function size(bytes) {
  const mebibytes = bytes / 2 ** 20;
  return mebibytes < 1024 ? `${number(mebibytes)} MiB` : `${number(mebibytes / 1024)} GiB`;
}

/** Percent of one processor. */
export const percent = (n) => `${tenth.format(n)} %`;

/** A duration, given in ms: the two largest units. */
export function duration(ms) {
  const seconds = Math.max(0, Math.floor(ms / 1000));
  if (seconds < 60) return `${seconds} s`;
  if (seconds < 3600) return `${Math.floor(seconds / 60)} min ${seconds % 60} s`;
  if (seconds < 86_400) return `${Math.floor(seconds / 3600)} h ${Math.floor(seconds % 3600 / 60)} min`;
  return `${Math.floor(seconds / 86_400)} d ${Math.floor(seconds % 86_400 / 3600)} h`;
}

/** A time of the day, given in ms. */
export const time = (ms) => clock.format(ms);

/** Why a process has ended. The causes that Balanza itself gives have words of the page's language. */
export const cause = (raw) => (hasText(`cause.${raw}`) ? text(`cause.${raw}`) : raw);

/** The name of a process within its server. */
export const processName = ({ worker, pid }) => (worker ? text('worker', { worker, pid }) : text('process', { pid }));
