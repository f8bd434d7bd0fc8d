package web

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"net/url"
	"time"

	"github.com/gofiber/fiber/v2"
	"github.com/gofiber/fiber/v2/utils"

	"balanza/services/store"
)

const (
	maxPrice     = 1e12 // a float64 is exact to a thousandth up to it
	maxPage      = 100  // products of one answer
	maxProductID = 100  // bytes; ids are shorter
)

// codeFull is the code of a JSON error: the account has as many products as it may have. See the codes in errors.go.
const codeFull = -9

var errNoProduct = &httpError{status: fiber.StatusNotFound, code: codeNotFound, text: "error.product"}

// products lists the products in the order of their ids, to anybody, maxPage at a time: those after the id in the query. When
// there are more, the header Link has the address of the next page (RFC 8288).
func (s *Site) products(c *fiber.Ctx) error {
	after, limit, err := readPage(c)
	if err != nil {
		return err
	}
	ctx, end, err := s.acquireStoreSlot(c)
	if err != nil {
		return err
	}
	defer end()
	page, err := s.config.Store.Products(ctx, after, limit+1) // one more shows whether there is a next page
	if err != nil {
		return err
	}
	if len(page) > limit {
		page = page[:limit]
		c.Set(fiber.HeaderLink, fmt.Sprintf(`</api/productos?after=%s&limit=%d>; rel="next"`,
			url.QueryEscape(page[limit-1].ID), limit))
	}
	if page == nil {
		page = []store.Product{} // in JSON [], where nil is null
	}
	return sendUncached(c, page)
}

// readPage reads the parameters of a page of products.
func readPage(c *fiber.Ctx) (after string, limit int, err error) {
	query := c.Context().QueryArgs()
	if len(query.PeekMulti("after")) > 1 {
		return "", 0, invalid("after", "error.repeated")
	}
	after = string(query.Peek("after"))
	if store.CheckText(after) != nil || len(after) > maxProductID {
		return "", 0, invalid("after", "error.after")
	}
	n, err := queryNumber(c, "limit", 1, maxPage, maxPage)
	return after, int(n), err
}

// product answers with one product, to anybody.
func (s *Site) product(c *fiber.Ctx) error {
	ctx, end, err := s.acquireStoreSlot(c)
	if err != nil {
		return err
	}
	defer end()
	p, err := s.config.Store.Product(ctx, c.Params("id"))
	if err != nil {
		return productError(err)
	}
	return sendUncached(c, p)
}

// createProduct stores a new product under an id of its own. It fails when the user has too many products.
func (s *Site) createProduct(ctx context.Context, c *fiber.Ctx, session store.Session) error {
	p, err := readProduct(c)
	if err != nil {
		return err
	}
	if err := s.countChange(ctx, c, session); err != nil {
		return err
	}
	if p.ID, err = s.newProductID(ctx); err != nil {
		return err
	}
	p.Owner = session.Email
	most := s.config.Limits.Products
	if err := s.config.Store.CreateProduct(ctx, p, most); errors.Is(err, store.ErrFull) {
		s.auditRefusal(c, auditProductRefused, session.Email)
		return &httpError{status: fiber.StatusForbidden, code: codeFull, text: "error.full", args: []any{most}}
	} else if err != nil {
		return err
	}
	s.announceProduct(ctx, p.ID)
	c.Set(fiber.HeaderLocation, "/api/productos/"+p.ID)
	return c.Status(fiber.StatusCreated).JSON(p)
}

// countChange counts a user's change of the products, and fails with 429 after too many.
func (s *Site) countChange(ctx context.Context, c *fiber.Ctx, session store.Session) error {
	err := s.spend(ctx, budget{"products/" + session.Email, s.config.Limits.ProductChanges, changeWindow}, "error.changes")
	if _, refused := errors.AsType[*httpError](err); refused {
		s.auditRefusal(c, auditProductRefused, session.Email)
	}
	return err
}

// updateProduct replaces a product. Fiber reuses the memory of parameters, so the id, which is kept, is copied.
func (s *Site) updateProduct(ctx context.Context, c *fiber.Ctx, session store.Session) error {
	p, err := readProduct(c)
	if err != nil {
		return err
	}
	if err := s.countChange(ctx, c, session); err != nil {
		return err
	}
	p.ID = utils.CopyString(c.Params("id"))
	if err := s.config.Store.UpdateProduct(ctx, p); err != nil {
		return productError(err)
	}
	s.announceProduct(ctx, p.ID)
	return c.JSON(p)
}

// deleteProduct deletes a product. A second deletion gets 404.
func (s *Site) deleteProduct(ctx context.Context, c *fiber.Ctx, session store.Session) error {
	if err := s.countChange(ctx, c, session); err != nil {
		return err
	}
	id := utils.CopyString(c.Params("id"))
	if err := s.config.Store.DeleteProduct(ctx, id); err != nil {
		return productError(err)
	}
	s.announceProduct(ctx, id)
	return c.SendStatus(fiber.StatusNoContent)
}

// announceProduct appends a log entry, at which every process sends the product to its pages. The product is stored by
// then, so a failure here is not the request's: pages read all products when they connect.
func (s *Site) announceProduct(ctx context.Context, id string) {
	if _, err := s.config.Log.Append(ctx, store.Entry{Kind: store.ProductChanged, Subject: id}); err != nil {
		s.log.Warn("change of a product not in the log", "id", id, "error", err)
	}
}

// readProduct reads a product without its id, which the server chooses.
func readProduct(c *fiber.Ctx) (store.Product, error) {
	f, err := readForm(c)
	if err != nil {
		return store.Product{}, err
	}
	p := store.Product{
		Nombre: f.visibleText("nombre", 1, maxName),
		Precio: f.number("precio", 0, maxPrice),
		Foto:   f.picture("foto"),
	}
	return p, f.err
}

// productError turns the store's errors for an id, unknown or not even text, into a 404.
func productError(err error) error {
	if errors.Is(err, store.ErrNotFound) || errors.Is(err, store.ErrInvalid) {
		return errNoProduct
	}
	return err
}

// productCounter numbers the products. It never expires.
const productCounter = "products"

// newProductID returns an id that sorts after those of all products created before, by any process and whatever the clocks
// say: 1, the product's number in 11 hexadecimal digits, and 9 random ones. Ids that begin with 0 are from an earlier
// version and contain a time.
func (s *Site) newProductID(ctx context.Context) (string, error) {
	n, err := s.config.Store.Count(ctx, productCounter, 1, time.Date(9999, 1, 1, 0, 0, 0, 0, time.UTC))
	if err != nil {
		return "", err
	}
	var random [5]byte
	_, _ = rand.Read(random[:]) // never fails
	return fmt.Sprintf("1%011x%.9s", n, hex.EncodeToString(random[:])), nil
}

// sendUncached answers with JSON that no cache may keep: the next request may be answered by a process whose data is
// newer.
func sendUncached(c *fiber.Ctx, v any) error {
	c.Set(fiber.HeaderCacheControl, "no-store")
	return c.JSON(v)
}
