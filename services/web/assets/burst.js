// The burst: the page sends many short requests for random numbers and shows how many of them each process answered. Its
// elements come from the template "burst"; pages/layout.html has it.

const REQUESTS = 100;
const AT_A_TIME = 4; // a browser has at most six connections to a server
const ADDRESS = '/api/randoms?cant=1000';
const TIMEOUT = 30_000; // ms, of one request

/** Makes the button of a burst work. root is the element that the template "burst" renders. */
export function connectBurst(root) {
  const burst = new Burst(root);
  const button = root.querySelector('.burst-send');
  button.parentElement.hidden = false; // it does nothing without scripts
  button.addEventListener('click', () => burst.send());
}

class Burst {
  #root;
  #list;
  #result;
  #progress;
  #button;
  #texts;
  #number = new Intl.NumberFormat(document.documentElement.lang, { maximumFractionDigits: 2 });
  #percent = new Intl.NumberFormat(document.documentElement.lang, { style: 'percent', maximumFractionDigits: 1 });
  #running = false;
  #processes = new Map(); // server and pid → { server, pid, count, row }
  #answered = 0;
  #failed = 0;

  constructor(root) {
    this.#root = root;
    this.#list = root.querySelector('.burst-shares');
    this.#result = root.querySelector('.burst-result');
    this.#progress = root.querySelector('.burst-progress');
    this.#button = root.querySelector('.burst-send');
    this.#texts = root.dataset;
  }

  /** Sends a burst, unless one is being sent. */
  async send() {
    if (this.#running) return;
    this.#start();
    const began = performance.now();
    let left = REQUESTS;
    const worker = async () => {
      while (left-- > 0) {
        this.#count(await ask());
        this.#show();
      }
    };
    await Promise.all(Array.from({ length: AT_A_TIME }, worker));
    this.#end((performance.now() - began) / 1000);
  }

  #start() {
    this.#running = true;
    this.#processes.clear();
    this.#answered = this.#failed = 0;
    this.#list.replaceChildren();
    this.#list.hidden = false;
    this.#result.textContent = '';
    this.#result.classList.remove('error');
    this.#progress.max = REQUESTS;
    this.#progress.value = 0;
    this.#progress.hidden = false;
    this.#button.ariaDisabled = 'true'; // "disabled" would move the focus away
    delete this.#root.dataset.done;
  }

  /** Counts an answer; null is none. */
  #count(answer) {
    if (!answer) {
      this.#failed++;
      return;
    }
    this.#answered++;
    const key = `${answer.server} ${answer.pid}`;
    const process = this.#processes.get(key) ?? { ...answer, count: 0, row: null };
    process.count++;
    this.#processes.set(key, process);
    process.row ??= this.#insert(process);
  }

  /** Adds a process's row to the list, which is sorted by server and pid: a second burst shows the same order. */
  #insert({ server, pid }) {
    const row = this.#root.querySelector('.burst-row').content.firstElementChild.cloneNode(true);
    row.dataset.server = server;
    row.dataset.pid = pid;
    row.querySelector('.burst-server').textContent = server;
    row.querySelector('.burst-pid').textContent = fill(this.#texts.pid, { pid });
    const order = (other) => server.localeCompare(other.dataset.server) || pid - other.dataset.pid;
    this.#list.insertBefore(row, [...this.#list.children].find((other) => order(other) < 0) ?? null);
    return row;
  }

  /** Draws the bars. A bar as long as the mark has the mean, and the mark is in the middle as long as no bar needs more. */
  #show() {
    this.#progress.value = this.#answered + this.#failed;
    const mean = this.#answered / this.#processes.size;
    const full = Math.max(2 * mean, this.#busiest());
    for (const { count, row } of this.#processes.values()) {
      row.querySelector('.burst-bar').style.width = `${100 * count / full}%`;
      row.querySelector('.burst-mean').style.left = `${100 * mean / full}%`;
      row.querySelector('.burst-count').textContent = this.#number.format(count);
      row.querySelector('.burst-share').textContent = this.#percent.format(count / this.#answered);
    }
  }

  #busiest() {
    return Math.max(0, ...[...this.#processes.values()].map(({ count }) => count));
  }

  #end(seconds) {
    const { one, many, result, busiest, failed } = this.#texts;
    const size = this.#processes.size;
    const sentences = [];
    if (this.#answered) {
      sentences.push(fill(result, {
        requests: this.#number.format(this.#answered),
        seconds: this.#number.format(seconds),
        processes: fill(size === 1 ? one : many, { n: this.#number.format(size) }),
      }));
    }
    if (size > 1) sentences.push(fill(busiest, { ratio: this.#number.format(this.#busiest() * size / this.#answered) }));
    if (this.#failed) {
      sentences.push(fill(failed, { n: this.#number.format(this.#failed) }));
      this.#result.classList.add('error');
    }
    this.#result.textContent = sentences.join(' ');
    this.#list.hidden = size === 0;
    this.#progress.hidden = true;
    this.#button.ariaDisabled = null;
    this.#root.dataset.done = this.#answered; // for tests, and for styles
    this.#running = false;
  }
}

/** Sends one request. It returns the process that answered, or null when there was no answer or an error. */
async function ask() {
  try {
    const answer = await fetch(ADDRESS, {
      headers: { Accept: 'application/json' }, cache: 'no-store', signal: AbortSignal.timeout(TIMEOUT),
    });
    await answer.text(); // the connection is free for the next request only then
    if (!answer.ok) return null;
    return { server: answer.headers.get('X-Balanza-Server'), pid: answer.headers.get('X-Balanza-Pid') };
  } catch {
    return null;
  }
}

/** Replaces {name} in a text by values. */
export function fill(text, values) {
  return text.replace(/\{(\w+)\}/g, (_, name) => values[name]);
}
