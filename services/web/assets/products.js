// The products: a table that shows the same on every open page, and the form that changes them.

const $ = (id) => document.getElementById(id);
const REQUEST_TIMEOUT = 60_000; // ms, in which a slow line brings the whole table

export class Products {
  #rows = new Map(); // product's id → its row
  #changed = null; // ids whose events arrived while the table is being read: these are newer than what is read; else null
  #editing = null; // id of the product in the form, null for a new one

  /** Reads the table at the start of each connection of the socket, and applies the events that follow. */
  connect(socket) {
    socket.addEventListener('joined', () => this.#read());
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
  }

  async #read() {
    const changed = new Set();
    this.#changed = changed;
    const { ok, body } = await call('GET', '/api/productos');
    if (changed !== this.#changed) return; // a later read has started
    this.#changed = null;
    if (!ok) {
      showError(body);
      return;
    }
    const ids = new Set(body.map(({ id }) => id));
    for (const id of this.#rows.keys()) {
      if (!ids.has(id) && !changed.has(id)) this.#set(id, null);
    }
    for (const product of body) {
      if (!changed.has(product.id)) this.#set(product.id, product);
    }
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
    $('product-empty').hidden = this.#rows.size > 0;
  }
}

/** Inserts a new row in the order of the ids, which is the server's. */
function insert(row) {
  const { rows } = $('product-table').tBodies[0];
  const isLater = (other) => other.dataset.id > row.dataset.id;
  const next = rows.length > 0 && isLater(rows[rows.length - 1]) ? [...rows].find(isLater) : null;
  $('product-table').tBodies[0].insertBefore(row, next);
}

/** Calls the REST interface. It never throws: without an answer, ok is false. */
async function call(method, path, content) {
  const headers = { Accept: 'application/json' };
  if (content) headers['Content-Type'] = 'application/json';
  try {
    const signal = AbortSignal.timeout(REQUEST_TIMEOUT);
    const response = await fetch(path, { method, headers, body: content && JSON.stringify(content), signal });
    if (response.status === 401) location.assign('/login');
    const text = await response.text();
    return { ok: response.ok, status: response.status, body: text ? JSON.parse(text) : null };
  } catch {
    return { ok: false, status: 0, body: { descripcion: $('product-table').dataset.failed } };
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
