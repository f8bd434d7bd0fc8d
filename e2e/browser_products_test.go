package e2e

import (
	"fmt"
	"strings"
	"testing"

	"github.com/chromedp/chromedp"
)

// awaitProducts waits until the table shows exactly these, as "name price".
func (p *tab) awaitProducts(want ...string) {
	p.t.Helper()
	eventually(p.t, "products", func() error {
		got := evaluate[[]string](p, `[...document.querySelectorAll('#product-table tbody tr')].map(
			row => row.querySelector('.name').textContent + ' ' + row.querySelector('.price').textContent)`)
		if strings.Join(got, "|") != strings.Join(want, "|") {
			return fmt.Errorf("the table shows %q, want %q", got, want)
		}
		return nil
	})
}

// What one page does to the products is at once on the other, which hangs on another process.
func TestProductsAreLive(t *testing.T) {
	home := t.TempDir()
	here, there := serve(t, home), serve(t, home)
	ana, beto := person(t), person(t)
	ana.signUp(here.url, "ana@example.com")
	beto.signUp(there.url, "beto@example.com")
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

	// A page that was elsewhere reads the table again.
	beto.open(there.url + "/productos-test")
	write(ana, "Goma", "1")
	ana.awaitProducts("Regla 14.25", "Goma 1.00")
	beto.open(there.url + "/")
	both("Regla 14.25", "Goma 1.00")
}

// What the server refuses is said at the form, and the field is marked.
func TestRefusedProductIsExplained(t *testing.T) {
	p := person(t)
	p.signUp(serve(t, t.TempDir()).url, "ana@example.com")
	p.fill([2]string{"nombre", "Regla"}, [2]string{"precio", "1"})
	p.do(chromedp.SendKeys(chromedp.CSS("#foto"), "javascript:alert(1)"))
	p.click("#product-save")
	p.await("document.querySelector('#foto').ariaInvalid === 'true' && !document.querySelector('#product-error').hidden")
	p.awaitProducts()
}
