// A chart of lines over time in SVG, with axes, a pointer that reads values, and no library.

const SVG = 'http://www.w3.org/2000/svg';
const MARGIN = { top: 8, right: 12, bottom: 22, left: 58 }; // px
const X_STEP = 60_000; // ms between two lines of the grid

/**
 * LineChart draws points {time, …} into an svg element. options:
 *   series: [{key, name}], one line each with the class line-KEY; the first one is filled when `fill` is set
 *   format: makes a value's text
 *   span: ms that the chart shows
 *   logarithmic: the axis has powers of ten
 *   agoText: makes the text below a grid line, of its age in ms
 *   floor: the least value at the top of the axis, or the least at its bottom when it is logarithmic
 */
export class LineChart {
  #svg;
  #options;
  #points = [];
  #end = 0;
  #width = 0;
  #height = 0;
  #grid;
  #lines = new Map(); // key → path
  #fill = null;
  #cursor;
  #dots = new Map(); // key → circle
  #index = -1; // of the point that is read

  constructor(svg, options) {
    this.#svg = svg;
    this.#options = options;
    this.#grid = svg.appendChild(node('g', { class: 'grid' }));
    if (options.fill) this.#fill = svg.appendChild(node('path', { class: `fill line-${options.series[0].key}` }));
    for (const { key } of options.series) {
      this.#lines.set(key, svg.appendChild(node('path', { class: `line line-${key}` })));
    }
    this.#cursor = svg.appendChild(node('line', { class: 'cursor', visibility: 'hidden' }));
    for (const { key } of options.series) {
      this.#dots.set(key, svg.appendChild(node('circle', { class: `dot line-${key}`, r: 3.5, visibility: 'hidden' })));
    }
    new ResizeObserver(([{ contentRect }]) => {
      this.#width = contentRect.width;
      this.#height = contentRect.height;
      this.#draw();
    }).observe(svg);
  }

  /** Draws points, oldest first; end is the time at the right edge. */
  draw(points, end) {
    const read = this.#points[this.#index];
    this.#points = points;
    this.#end = end;
    this.#index = read ? points.indexOf(read) : -1;
    this.#draw();
  }

  /** The point nearest to a place on the screen, null without one. */
  pointAt(clientX) {
    if (!this.#points.length) return null;
    const x = clientX - this.#svg.getBoundingClientRect().left;
    const time = this.#end - this.#options.span * (1 - (x - MARGIN.left) / this.#plotWidth);
    return this.#points.reduce((best, p) => (Math.abs(p.time - time) < Math.abs(best.time - time) ? p : best));
  }

  /** Marks a point, or none. */
  mark(point) {
    this.#index = point ? this.#points.indexOf(point) : -1;
    this.#drawCursor(this.#scale());
  }

  get #plotWidth() {
    return Math.max(1, this.#width - MARGIN.left - MARGIN.right);
  }

  #x(time) {
    return MARGIN.left + this.#plotWidth * (1 - (this.#end - time) / this.#options.span);
  }

  /** The axis: its ticks, and y of a value. */
  #scale() {
    const { series, logarithmic, floor } = this.#options;
    const values = this.#points.flatMap((p) => series.map(({ key }) => p[key])).filter((v) => v !== null);
    const ticks = logarithmic ? powers(values, floor) : steps(Math.max(floor, ...values));
    const position = logarithmic ? Math.log10 : (v) => v;
    const bottom = position(ticks[0]);
    const range = position(ticks.at(-1)) - bottom;
    const height = this.#height - MARGIN.top - MARGIN.bottom;
    const y = (value) => MARGIN.top + height * (1 - Math.min(1, Math.max(0, (position(value) - bottom) / range)));
    return { ticks, y };
  }

  #draw() {
    if (!this.#width) return; // not laid out yet
    const scale = this.#scale();
    this.#drawGrid(scale);
    for (const [key, path] of this.#lines) path.setAttribute('d', this.#path(key, scale.y, null));
    this.#fill?.setAttribute('d', this.#path(this.#options.series[0].key, scale.y, this.#height - MARGIN.bottom));
    this.#drawCursor(scale);
  }

  #drawGrid({ ticks, y }) {
    const right = this.#width - MARGIN.right;
    const parts = [];
    for (const tick of ticks) {
      parts.push(node('line', { x1: MARGIN.left, x2: right, y1: y(tick), y2: y(tick) }));
      parts.push(label(this.#options.format(tick), { x: MARGIN.left - 8, y: y(tick) + 4, 'text-anchor': 'end' }));
    }
    for (let age = 0; age <= this.#options.span; age += X_STEP) {
      const x = this.#x(this.#end - age);
      const anchor = age === 0 ? 'end' : 'middle';
      parts.push(label(this.#options.agoText(age), { x: age === 0 ? x + MARGIN.right : x, y: this.#height - 5, 'text-anchor': anchor }));
    }
    this.#grid.replaceChildren(...parts);
  }

  /** The line of a series; with a bottom it is closed there, once for each part between gaps. */
  #path(key, y, bottom) {
    const parts = [];
    let part = [];
    for (const p of this.#points) {
      if (p.time < this.#end - this.#options.span) continue;
      if (p[key] !== null) {
        part.push(`${this.#x(p.time).toFixed(1)},${y(p[key]).toFixed(1)}`);
      } else if (part.length) {
        parts.push(part);
        part = [];
      }
    }
    if (part.length) parts.push(part);
    return parts.map((points) => {
      // A point between two gaps would have no length, and so would not be seen.
      const line = `M${points.length > 1 ? points.join('L') : `${points[0]}h1.5`}`;
      if (bottom === null) return line;
      const [first, last] = [points[0], points.at(-1)].map((p) => p.split(',')[0]);
      return `${line}L${last},${bottom}L${first},${bottom}Z`;
    }).join('');
  }

  #drawCursor({ y }) {
    const point = this.#points[this.#index];
    const visibility = point ? 'visible' : 'hidden';
    set(this.#cursor, { visibility });
    if (point) {
      const x = this.#x(point.time);
      set(this.#cursor, { x1: x, x2: x, y1: MARGIN.top, y2: this.#height - MARGIN.bottom });
    }
    for (const [key, dot] of this.#dots) {
      if (!point || point[key] === null) set(dot, { visibility: 'hidden' });
      else set(dot, { visibility, cx: this.#x(point.time), cy: y(point[key]) });
    }
  }
}

/** Ticks from 0 to at least top: 1, 2 or 5 times a power of ten apart, at most six of them. */
function steps(top) {
  const power = 10 ** Math.floor(Math.log10(top / 4));
  const step = [1, 2, 5, 10].map((n) => n * power).find((s) => top / s <= 5);
  return Array.from({ length: Math.ceil(top / step) + 1 }, (_, i) => i * step);
}

/** Powers of ten around all values, at least two of them. */
function powers(values, floor) {
  const lowest = Math.floor(Math.log10(Math.max(floor, Math.min(0.001, ...values))));
  const highest = Math.max(lowest + 1, Math.ceil(Math.log10(Math.max(floor, 0.01, ...values))));
  return Array.from({ length: highest - lowest + 1 }, (_, i) => 10 ** (lowest + i));
}

/** A new element of SVG with attributes. */
export function node(name, attributes = {}) {
  return set(document.createElementNS(SVG, name), attributes);
}

function set(element, attributes) {
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  return element;
}

function label(content, attributes) {
  const element = node('text', attributes);
  element.textContent = content;
  return element;
}
