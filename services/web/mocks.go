package web

import (
	"fmt"
	"html/template"
	"net/url"
	"strings"

	"github.com/brianvoe/gofakeit/v7"
	"github.com/gofiber/fiber/v2"

	"balanza/services/store"
)

// mockCount is how many products /api/productos-test returns.
const mockCount = 5

// mockProduct returns a random product. Its picture is a data: address, so that showing it needs no other host.
func mockProduct() store.Product {
	picture := fmt.Sprintf(`<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 8 8">`+
		`<rect width="8" height="8" fill="%s"/><circle cx="4" cy="4" r="%d" fill="%s"/></svg>`,
		gofakeit.HexColor(), gofakeit.IntRange(1, 3), gofakeit.HexColor())
	return store.Product{
		ID:     gofakeit.UUID(),
		Nombre: gofakeit.ProductName(),
		Precio: gofakeit.Price(1, 1000),
		Foto:   "data:image/svg+xml," + url.PathEscape(picture),
	}
}

// mockProducts answers with random products as JSON. They are new each time and are not stored.
func (s *Site) mockProducts(c *fiber.Ctx) error {
	all := make([]store.Product, mockCount)
	for i := range all {
		all[i] = mockProduct()
	}
	return sendUncached(c, all)
}

// showMockProducts shows random products as a table.
func (s *Site) showMockProducts(c *fiber.Ctx) error {
	type row struct { // its Foto hides the product's
		store.Product
		Foto template.URL // html/template rejects data: addresses of any other type
	}
	var rows [mockCount]row
	for i := range rows {
		rows[i].Product = mockProduct()
		rows[i].Foto = template.URL(rows[i].Product.Foto)
	}
	err := s.show(c, "productos-test", Page{Data: rows[:]})
	c.Set(fiber.HeaderContentSecurityPolicy, strings.Replace(contentPolicy, "img-src", "img-src data:", 1))
	return err
}
