// The histogram: its statistics, and its picture in the SVG of pages/randoms.html. The picture has one unit of width for each
// number and stretches to the width of the page; the texts beside it are HTML, which does not stretch.

const NUMBERS = 1000;
const HEIGHT = 100; // of the SVG's coordinates
const LIKELY = 2; // standard deviations from the mean, within which 95 % of all counts are
const SHOWN = 4; // standard deviations from the mean that the picture always shows

/** The counts of the server's answer, { number: times }, as a list; the number 1 is the first. */
export function toList(counts) {
  return Array.from({ length: NUMBERS }, (_, i) => counts[i + 1] ?? 0);
}

/** Sum, mean, extremes and chi-square of a list of counts, against equal chances. */
export function statistics(list) {
  const sum = list.reduce((a, b) => a + b, 0);
  const mean = sum / NUMBERS;
  const least = list.reduce((best, times, i) => (times < list[best] ? i : best), 0);
  const most = list.reduce((best, times, i) => (times > list[best] ? i : best), 0);
  const chi = list.reduce((total, times) => total + (times - mean) ** 2 / mean, 0);
  return {
    sum, mean, chi, p: probability(chi),
    deviation: Math.sqrt(mean * (1 - 1 / NUMBERS)), // of one number's count
    rarest: { number: least + 1, times: list[least] },
    commonest: { number: most + 1, times: list[most] },
  };
}

/**
 * The probability that chi-square with 999 degrees of freedom is at least x. The cube root of chi-square is nearly normal
 * (Wilson and Hilferty, 1931): with so many degrees the error is under 0.0001.
 */
export function probability(x) {
  const part = 2 / (9 * (NUMBERS - 1));
  return 1 - normal((Math.cbrt(x / (NUMBERS - 1)) - 1 + part) / Math.sqrt(part));
}

/** The normal distribution, by Abramowitz and Stegun, Handbook of Mathematical Functions, 7.1.26. */
function normal(z) {
  const x = Math.abs(z) / Math.SQRT2;
  const t = 1 / (1 + 0.3275911 * x);
  const series = t * (0.254829592 + t * (-0.284496736 + t * (1.421413741 + t * (-1.453152027 + t * 1.061405429))));
  const upper = series * Math.exp(-x * x) / 2;
  return z < 0 ? upper : 1 - upper;
}

/** The picture of a histogram in the element that pages/randoms.html has for it. */
export class Histogram {
  #root;
  #format;
  #list = [];
  #low = 0;
  #high = 1;

  /** format turns a number into a text in the page's language. */
  constructor(root, format) {
    this.#root = root;
    this.#format = format;
    const marks = [1, 250, 500, 750, NUMBERS].map((number) => label(format(number), 'left', (number - 0.5) / NUMBERS));
    this.#find('.histogram-x').replaceChildren(...marks);
  }

  /** Calls choose with the number under the pointer whenever it moves. */
  onPoint(choose) {
    const plot = this.#find('.histogram-plot');
    const point = ({ clientX }) => {
      const { left, width } = plot.getBoundingClientRect();
      choose(Math.min(NUMBERS, Math.max(1, Math.ceil((clientX - left) / width * NUMBERS))));
    };
    plot.addEventListener('pointermove', point);
    plot.addEventListener('pointerdown', point);
  }

  /** Draws a list of counts. The axis begins at zero if fromZero, else at what is needed to tell the counts apart. */
  draw(list, { mean, deviation, rarest, commonest }, fromZero) {
    this.#list = list;
    this.#low = fromZero ? 0 : Math.max(0, Math.min(rarest.times, mean - SHOWN * deviation));
    this.#high = Math.max(commonest.times, mean + SHOWN * deviation);
    const y = (value) => this.#y(value);

    let bars = `M0 ${HEIGHT}`;
    list.forEach((times, i) => { bars += `V${y(times)}H${i + 1}`; });
    this.#path('bars', `${bars}V${HEIGHT}Z`);
    const [top, bottom] = [mean + LIKELY * deviation, Math.max(this.#low, mean - LIKELY * deviation)];
    this.#path('band', `M0 ${y(top)}H${NUMBERS}V${y(bottom)}H0Z`);
    this.#path('edges', `M0 ${y(top)}H${NUMBERS}M0 ${y(bottom)}H${NUMBERS}`);
    this.#path('mean', `M0 ${y(mean)}H${NUMBERS}`);
    const ticks = steps(this.#low, this.#high);
    this.#path('grid', ticks.map((tick) => `M0 ${y(tick)}H${NUMBERS}`).join(''));
    this.#find('.histogram-y').replaceChildren(
      ...ticks.map((tick) => label(this.#format(tick), 'top', y(tick) / HEIGHT)));
  }

  /** Marks a number in the picture. */
  mark(number) {
    this.#path('cursor', `M${number - 0.5} ${HEIGHT}V0M${number - 1} ${HEIGHT}V${this.#y(this.#list[number - 1])}h1V${HEIGHT}`);
  }

  #y(value) {
    return +(HEIGHT * (this.#high - value) / (this.#high - this.#low)).toFixed(3);
  }

  #path(name, d) {
    this.#find(`.histogram-${name}`).setAttribute('d', d);
  }

  #find(selector) {
    return this.#root.querySelector(selector);
  }
}

/** Round values between two, for the marks of an axis: about five, whole ones, with a distance of 1, 2 or 5 by a power of ten. */
function steps(low, high) {
  const rough = (high - low) / 5;
  const power = 10 ** Math.floor(Math.log10(rough));
  const distance = Math.max(1, [1, 2, 5, 10].find((step) => step * power >= rough) * power);
  const ticks = [];
  for (let tick = Math.ceil(low / distance) * distance; tick <= high; tick += distance) ticks.push(tick);
  return ticks;
}

/** A text of an axis at a part of its length. */
function label(text, side, part) {
  const element = document.createElement('span');
  element.textContent = text;
  element.style[side] = `${100 * part}%`;
  return element;
}
