package web

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"time"

	"github.com/gofiber/fiber/v2"
	"github.com/gofiber/fiber/v2/utils"

	"balanza/services/store"
)

const highestPrice = 1e12

var noProduct = &failure{status: fiber.StatusNotFound, code: codeNotFound, text: "error.product"}

func (s *Site) products(c *fiber.Ctx) error {
	ctx, cancel := s.asking()
	defer cancel()
	all, err := s.config.Store.Products(ctx)
	if err != nil {
		return err
	}
	if all == nil {
		all = []store.Product{} // JSON [] and not null
	}
	return sendFresh(c, all)
}

func (s *Site) product(c *fiber.Ctx) error {
	ctx, cancel := s.asking()
	defer cancel()
	p, err := s.config.Store.Product(ctx, c.Params("id"))
	if err != nil {
		return productFailure(err)
	}
	return sendFresh(c, p)
}

func (s *Site) createProduct(c *fiber.Ctx, _ store.Session) error {
	p, err := readProduct(c)
	if err != nil {
		return err
	}
	p.ID = newProductID(time.Now())
	ctx, cancel := s.asking()
	defer cancel()
	if err := s.config.Store.PutProduct(ctx, p); err != nil {
		return err
	}
	s.tellProduct(ctx, p.ID)
	c.Set(fiber.HeaderLocation, "/api/productos/"+p.ID)
	return c.Status(fiber.StatusCreated).JSON(p)
}

func (s *Site) updateProduct(c *fiber.Ctx, _ store.Session) error {
	p, err := readProduct(c)
	if err != nil {
		return err
	}
	p.ID = utils.CopyString(c.Params("id"))
	ctx, cancel := s.asking()
	defer cancel()
	if err := s.config.Store.UpdateProduct(ctx, p); err != nil {
		return productFailure(err)
	}
	s.tellProduct(ctx, p.ID)
	return c.JSON(p)
}

func (s *Site) deleteProduct(c *fiber.Ctx, _ store.Session) error {
	id := utils.CopyString(c.Params("id"))
	ctx, cancel := s.asking()
	defer cancel()
	if err := s.config.Store.DeleteProduct(ctx, id); err != nil {
		return productFailure(err)
	}
	s.tellProduct(ctx, id)
	return c.SendStatus(fiber.StatusNoContent)
}

// tellProduct has every open page, on every process, read the product again. The product is written already, so that a
// log which does not take the news is no failure of the request: pages read all products whenever they connect.
func (s *Site) tellProduct(ctx context.Context, id string) {
	if _, err := s.config.Log.Append(ctx, store.Entry{Kind: store.ProductChanged, Subject: id}); err != nil {
		s.log.Warn("product's change not told", "id", id, "error", err)
	}
}

func readProduct(c *fiber.Ctx) (p store.Product, err error) {
	f, err := readFields(c)
	if err != nil {
		return p, err
	}
	if p.Nombre, err = f.text("nombre", 1, longestName); err != nil {
		return p, err
	}
	if p.Precio, err = f.number("precio", 0, highestPrice); err != nil {
		return p, err
	}
	p.Foto, err = f.picture("foto")
	return p, err
}

func productFailure(err error) error {
	if errors.Is(err, store.ErrNotFound) || errors.Is(err, store.ErrInvalid) {
		return noProduct
	}
	return err
}

// newProductID gives ids that sort by the time they were made.
func newProductID(now time.Time) string {
	var random [5]byte
	_, _ = rand.Read(random[:]) // never fails
	return fmt.Sprintf("%011x%s", now.UnixMilli(), hex.EncodeToString(random[:]))
}

// sendFresh answers with JSON that nobody may keep.
func sendFresh(c *fiber.Ctx, v any) error {
	c.Set(fiber.HeaderCacheControl, "no-store")
	return c.JSON(v)
}
