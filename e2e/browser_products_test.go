package e2e

import (
	"fmt"
	"path/filepath"
	"testing"

	"github.com/chromedp/chromedp"

	"balanza/services/store"
	"balanza/services/store/sqlitestore"
)

// awaitProducts waits until the table shows exactly these products, given as "name price".
func (p *tab) awaitProducts(want ...string) {
	p.t.Helper()
	p.awaitTexts(`[...document.querySelectorAll('#product-table tbody tr')].map(
		row => row.querySelector('.name').textContent + ' ' + row.querySelector('.price').textContent)`, want)
}

// A change of the products on one page appears on another page, which is connected to another process.
func TestProductsAcrossProcesses(t *testing.T) {
	home := t.TempDir()
	first, second := serve(t, home), serve(t, home)
	ana, beto := twoUsers(t, first.url, second.url)
	both := func(want ...string) {
		t.Helper()
		ana.awaitProducts(want...)
		beto.awaitProducts(want...)
	}

	write := func(p *tab, name, price string) {
		p.fill([2]string{"nombre", name}, [2]string{"precio", price}, [2]string{"foto", noPicture})
		p.click("#product-save")
	}
	write(ana, "Regla", "12.5")
	both("Regla 12.50")
	write(beto, "<b>Lápiz</b>", "3")
	both("Regla 12.50", "<b>Lápiz</b> 3.00")

	beto.click("#product-table tbody tr:first-child .edit")
	beto.await("document.querySelector('#nombre').value === 'Regla'")
	write(beto, "Regla", "14.25")
	both("Regla 14.25", "<b>Lápiz</b> 3.00")

	evaluate[any](ana, "window.confirm = () => true, null")
	ana.click("#product-table tbody tr:last-child .delete")
	both("Regla 14.25")

	// A page that is loaded later shows the current table.
	beto.open(second.url + "/productos-test")
	write(ana, "Goma", "1")
	ana.awaitProducts("Regla 14.25", "Goma 1.00")
	beto.open(second.url + "/")
	both("Regla 14.25", "Goma 1.00")
}

// The form explains why the server rejected a product, and marks the field.
func TestInvalidProductIsExplained(t *testing.T) {
	p := newTab(t)
	p.signUp(serve(t, t.TempDir()).url, "ana@example.com")
	p.fill([2]string{"nombre", "Regla"}, [2]string{"precio", "1"})
	p.run(chromedp.SendKeys(chromedp.CSS("#foto"), "javascript:alert(1)"))
	p.click("#product-save")
	p.await("document.querySelector('#foto').ariaInvalid === 'true' && !document.querySelector('#product-error').hidden")
	p.awaitProducts()
}

// The page shows the first page of a long list, the next ones when the user scrolls to the end, and changes at once, also of
// products whose page it has not loaded.
func TestLongListOfProducts(t *testing.T) {
	const products = 250
	home := t.TempDir()
	s := serve(t, home)
	db, err := sqlitestore.Open(t.Context(), filepath.Join(home, "data", "balanza.db"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { db.Close() })
	for i := range products {
		err := db.CreateProduct(t.Context(), store.Product{
			ID: fmt.Sprintf("0%03d", i), Nombre: fmt.Sprint("Regla ", i), Foto: noPicture, Owner: "eva@example.com",
		}, products)
		if err != nil {
			t.Fatal(err)
		}
	}
	p := newTab(t)
	p.signUp(s.url, "ana@example.com")
	rows := func(want int) {
		t.Helper()
		p.await(fmt.Sprintf("document.querySelectorAll('#product-table tbody tr').length === %d", want))
	}
	names := `[...document.querySelectorAll('#product-table tbody .name')].map((e) => e.textContent)`
	for _, width := range []int64{1280, 360} {
		p.emulate(width, "light")
		p.open(s.url + "/")
		p.awaitOnline()
		rows(100)
		p.fill([2]string{"nombre", fmt.Sprint("Nueva ", width)}, [2]string{"precio", "1"}, [2]string{"foto", noPicture})
		p.click("#product-save")
		rows(101) // and not the pages before it
		p.await(names + `.at(-1) === 'Nueva ` + fmt.Sprint(width) + `'`)
		if width == 1280 {
			evaluate[any](p, "document.querySelector('#products .scroll').scrollTo(0, 1e6), null")
		} else {
			p.click("#product-more")
		}
		rows(201)
		for range 2 { // the last page may be loaded by then
			evaluate[any](p, "document.querySelector('#products .scroll').scrollTo(0, 1e6), null")
		}
		p.await("document.querySelector('#product-more').hidden")
		if width == 1280 {
			rows(251)
		} else {
			rows(252)
		}
		p.await(names + fmt.Sprintf(`.slice(0, %d).every((name, i) => name === 'Regla ' + i)`, products))
	}
}
