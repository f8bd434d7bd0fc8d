package e2e

import (
	"testing"

	"github.com/chromedp/chromedp"
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
