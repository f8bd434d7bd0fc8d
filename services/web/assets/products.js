// The products: a table that shows the same on every open page, and the form that changes them.

const $ = (id) => document.getElementById(id);
const REQUEST_TIMEOUT = 60_000; // ms, in which a slow line brings a page of the table

const FIRST_PAGE = '/api/productos';

export class Products {
  #rows = new Map(); // product's id → its row
  #next = null; // address of the next page, null when all pages are loaded
  #loaded = ''; // id of the last product of the pages that are loaded; the table may have later ones, from events
  #changed = null; // ids whose events arrived while a page is being read: these are newer than what is read; else null
  #editing = null; // id of the product in the form, null for a new one
  #observer = new IntersectionObserver((entries) => entries.some((e) => e.isIntersecting) && this.#readNext());

  /** Reads the table at the start of each connection of the socket, and applies the events that follow. */
  connect(socket) {
    socket.addEventListener('joined', () => this.#readAgain());
    socket.addEventListener('product', ({ detail }) => {
      this.#changed?.add(detail.id);
      this.#set(detail.id, detail.product);
      this.#showEmpty();
    });
    const form = $('product-form');
    form.addEventListener('submit', (event) => {
      event.preventDefault();
      this.#save(form);
    });
    $('product-cancel').addEventListener('click', () => this.#edit(null));
    $('product-more').addEventListener('click', () => this.#readNext());
  }

  /** Reads the pages that are loaded once more, or the first one. */
  async #readAgain() {
    const end = this.#loaded;
    this.#loaded = '';
    this.#next = FIRST_PAGE; // if it cannot be read, the button tries again
    let more = await this.#read(this.#next);
    while (more && this.#loaded < end) more = await this.#read(this.#next);
  }

  /** Reads the next page, unless one is being read. */
  #readNext() {
    if (this.#next && !this.#changed) this.#read(this.#next);
  }

  /** Reads a page into the table. It returns false when there is none after it, and when another read has begun since. */
  async #read(address) {
    const changed = new Set();
    this.#changed = changed;
    const { ok, body, next } = await call('GET', address);
    if (changed !== this.#changed) return false;
    this.#changed = null;
    if (ok) this.#apply(body, next, changed);
    else showError(body);
    // The button is observed only after a page: one that could not be read is not tried again until the user presses it.
    $('product-more').hidden = !this.#next;
    this.#observer.disconnect();
    if (ok && next) this.#observer.observe($('product-more'));
    return ok && next !== null;
  }

  /** Shows the products of a page, and removes the rows of those that are not in it and should be. */
  #apply(page, next, changed) {
    const last = next ? page.at(-1).id : null; // the last page has all that follow
    const ids = new Set(page.map(({ id }) => id));
    for (const id of this.#rows.keys()) {
      const inRange = id > this.#loaded && (last === null || id <= last);
      if (inRange && !ids.has(id) && !changed.has(id)) this.#set(id, null);
    }
    for (const product of page) {
      if (!changed.has(product.id)) this.#set(product.id, product);
    }
    this.#loaded = page.at(-1)?.id ?? this.#loaded;
    this.#next = next;
    this.#showEmpty();
  }

  /** Shows a product, or removes its row when product is null. */
  #set(id, product) {
    const old = this.#rows.get(id);
    if (!product) {
      old?.remove();
      this.#rows.delete(id);
      if (this.#editing === id) this.#edit(null, false);
      return;
    }
    const row = this.#row(product);
    if (old) old.replaceWith(row);
    else insert(row);
    this.#rows.set(id, row);
  }

  #row(product) {
    const row = $('product-row').content.firstElementChild.cloneNode(true);
    row.dataset.id = product.id;
    const picture = row.querySelector('img');
    picture.onerror = () => picture.replaceWith(document.createElement('span'));
    picture.src = product.foto;
    row.querySelector('.name').textContent = product.nombre;
    row.querySelector('.price').textContent = new Intl.NumberFormat(document.documentElement.lang,
      { minimumFractionDigits: 2, maximumFractionDigits: 2 }).format(product.precio);
    const button = (kind, act) => {
      const b = row.querySelector(`.${kind}`);
      b.ariaLabel = `${b.dataset.label}: ${product.nombre}`;
      b.title = b.dataset.label;
      b.addEventListener('click', () => act(b));
    };
    button('edit', () => this.#edit(product));
    button('delete', (b) => confirm(`${b.dataset.confirm}\n${product.nombre}`) && this.#delete(product.id));
    return row;
  }

  /** Puts a product into the form, or empties it for a new one. */
  #edit(product, focus = true) {
    this.#editing = product?.id ?? null;
    const form = $('product-form');
    showError(null);
    const { add, change } = $('product-save').dataset;
    $('product-save').textContent = product ? change : add;
    $('product-editing').hidden = !product;
    for (const field of ['nombre', 'precio', 'foto']) form[field].value = product?.[field] ?? '';
    if (focus) form.nombre.focus();
  }

  async #save(form) {
    if (!form.reportValidity()) return;
    const product = { nombre: form.nombre.value, precio: form.precio.valueAsNumber, foto: form.foto.value };
    const id = this.#editing;
    $('product-save').disabled = true; // a second click must not create a second product
    const { ok, body } = id === null
      ? await call('POST', '/api/productos', product)
      : await call('PUT', `/api/productos/${encodeURIComponent(id)}`, product);
    $('product-save').disabled = false;
    if (!ok) showError(body);
    else if (this.#editing === id) this.#edit(null); // else the user edits another one by now
  }

  async #delete(id) {
    const { ok, status, body } = await call('DELETE', `/api/productos/${encodeURIComponent(id)}`);
    if (!ok && status !== 404) showError(body); // 404: somebody else has deleted it
  }

  #showEmpty() {
    $('product-empty').hidden = this.#rows.size > 0 || this.#next !== null;
  }
}

/** Inserts a new row in the order of the ids, which is the server's. */
function insert(row) {
  const { rows } = $('product-table').tBodies[0];
  const isLater = (other) => other.dataset.id > row.dataset.id;
  const next = rows.length > 0 && isLater(rows[rows.length - 1]) ? [...rows].find(isLater) : null;
  $('product-table').tBodies[0].insertBefore(row, next);
}

/** Calls the REST interface. It never throws: without an answer, ok is false. `next` is the address of the next page. */
async function call(method, path, content) {
  const headers = { Accept: 'application/json' };
  if (content) headers['Content-Type'] = 'application/json';
  try {
    const signal = AbortSignal.timeout(REQUEST_TIMEOUT);
    const response = await fetch(path, { method, headers, body: content && JSON.stringify(content), signal });
    if (response.status === 401) location.assign('/login');
    const text = await response.text();
    const next = response.headers.get('Link')?.match(/^<([^>]+)>; rel="next"$/)?.[1] ?? null;
    return { ok: response.ok, status: response.status, body: text ? JSON.parse(text) : null, next };
  } catch {
    return { ok: false, status: 0, body: { descripcion: $('product-table').dataset.failed }, next: null };
  }
}

/** Shows the server's error at the form and marks its field; null removes it. */
function showError(body) {
  const error = $('product-error');
  error.textContent = body?.descripcion ?? '';
  error.hidden = !body;
  for (const input of $('product-form').querySelectorAll('input')) {
    const wrong = body?.campo === input.name;
    input.ariaInvalid = wrong ? 'true' : null;
    if (wrong) input.focus();
  }
}
