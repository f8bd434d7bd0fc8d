// The products: a table that is the same on every open page, and the form that writes them.

const $ = (id) => document.getElementById(id);

export class Products {
  #rows = new Map(); // product's id → its row
  #changed = null; // while the table is being read: the ids that were told of meanwhile, which are newer than what is read
  #editing = null; // id of the product in the form, null for a new one

  /** Follows the socket: the table is read whenever a connection begins, and kept by what is told after. */
  follow(socket) {
    socket.addEventListener('joined', () => this.#read());
    socket.addEventListener('product', ({ detail }) => {
      this.#changed?.add(detail.id);
      this.#put(detail.id, detail.product);
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
    if (changed !== this.#changed) return; // read again meanwhile
    this.#changed = null;
    if (!ok) {
      showError(body);
      return;
    }
    const there = new Set(body.map(({ id }) => id));
    for (const id of this.#rows.keys()) {
      if (!there.has(id) && !changed.has(id)) this.#put(id, null);
    }
    for (const product of body) {
      if (!changed.has(product.id)) this.#put(product.id, product);
    }
    this.#showEmpty();
  }

  /** Shows a product, or takes it away when there is none. */
  #put(id, product) {
    const before = this.#rows.get(id);
    if (!product) {
      before?.remove();
      this.#rows.delete(id);
      if (this.#editing === id) this.#edit(null, false);
      return;
    }
    const row = this.#row(product);
    if (before) before.replaceWith(row);
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
    button('delete', (b) => confirm(`${b.dataset.sure}\n${product.nombre}`) && this.#delete(product.id));
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
    $('product-save').disabled = true; // a second click is no second product
    const { ok, body } = id === null
      ? await call('POST', '/api/productos', product)
      : await call('PUT', `/api/productos/${encodeURIComponent(id)}`, product);
    $('product-save').disabled = false;
    if (!ok) showError(body);
    else if (this.#editing === id) this.#edit(null); // else another one was begun meanwhile
  }

  async #delete(id) {
    const { ok, status, body } = await call('DELETE', `/api/productos/${encodeURIComponent(id)}`);
    if (!ok && status !== 404) showError(body); // somebody else was faster: it is gone, as was asked
  }

  #showEmpty() {
    $('product-empty').hidden = this.#rows.size > 0;
  }
}

/** Puts a new row in its place: the server's order is that of the ids. */
function insert(row) {
  const { rows } = $('product-table').tBodies[0];
  const isLater = (other) => other.dataset.id > row.dataset.id;
  const next = rows.length > 0 && isLater(rows[rows.length - 1]) ? [...rows].find(isLater) : null;
  $('product-table').tBodies[0].insertBefore(row, next);
}

/** Asks the REST interface. Never throws: a server that does not answer is an answer that is not ok. */
async function call(method, path, content) {
  const headers = { Accept: 'application/json' };
  if (content) headers['Content-Type'] = 'application/json';
  try {
    const answer = await fetch(path, { method, headers, body: content && JSON.stringify(content) });
    if (answer.status === 401) location.assign('/login');
    const text = await answer.text();
    return { ok: answer.ok, status: answer.status, body: text ? JSON.parse(text) : null };
  } catch {
    return { ok: false, status: 0, body: { descripcion: $('product-table').dataset.failed } };
  }
}

/** Shows what the server said of a field, at the form; null takes it away. */
function showError(answer) {
  const error = $('product-error');
  error.textContent = answer?.descripcion ?? '';
  error.hidden = !answer;
  for (const input of $('product-form').querySelectorAll('input')) {
    const wrong = answer?.campo === input.name;
    input.ariaInvalid = wrong ? 'true' : null;
    if (wrong) input.focus();
  }
}
