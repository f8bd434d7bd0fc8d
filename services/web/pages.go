package web

import (
	"bytes"
	"embed"
	"fmt"
	"html/template"

	"github.com/gofiber/fiber/v2"
	"golang.org/x/text/language"
)

//go:embed pages/*.html
var pageFiles embed.FS

// Page is the data of a template.
type Page struct {
	Lang  string // es or en
	T     func(key string, args ...any) string
	Email string // of the user, where the page needs a login
	Title string
	Error string // what was wrong with the form that was sent
	Field string // in which of its fields
	Data  any
}

// contentPolicy allows scripts, styles and connections of this server only, and pictures of any.
const contentPolicy = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' https: data:; " +
	"connect-src 'self'; font-src 'self'; form-action 'self'; frame-ancestors 'none'; base-uri 'none'"

// languages are those of the pages; the first is for clients that accept neither.
var languages = language.NewMatcher([]language.Tag{language.Spanish, language.English})

func loadPages(a assets) (*template.Template, error) {
	return template.New("").Funcs(template.FuncMap{"asset": a.url}).ParseFS(pageFiles, "pages/*.html")
}

// show answers with a page.
func (s *Site) show(c *fiber.Ctx, name string, p Page) error {
	page, err := s.render(lang(c), name, p)
	if err != nil {
		return err
	}
	return sendPage(c, page)
}

// render executes a page's template in a language.
func (s *Site) render(lang, name string, p Page) ([]byte, error) {
	p.Lang = lang
	p.T = s.texts[p.Lang].format
	p.Title = p.T(name + ".title")
	var b bytes.Buffer
	if err := s.pages.ExecuteTemplate(&b, name, p); err != nil {
		return nil, fmt.Errorf("page %s: %w", name, err)
	}
	return b.Bytes(), nil
}

// sendPage answers with a page.
func sendPage(c *fiber.Ctx, page []byte) error {
	c.Set(fiber.HeaderContentType, fiber.MIMETextHTMLCharsetUTF8)
	c.Set(fiber.HeaderContentSecurityPolicy, contentPolicy)
	c.Set(fiber.HeaderReferrerPolicy, "same-origin")
	c.Set(fiber.HeaderCacheControl, "no-store")
	c.Set(fiber.HeaderVary, "Accept, Accept-Language")
	c.Response().SetBodyRaw(page)
	return nil
}

// page is the handler of a page that is the same for all.
func (s *Site) page(name string) fiber.Handler {
	return func(c *fiber.Ctx) error { return s.show(c, name, Page{}) }
}

// lang is the page language that the client prefers.
func lang(c *fiber.Ctx) string {
	tag, _ := language.MatchStrings(languages, c.Get(fiber.HeaderAcceptLanguage))
	base, _ := tag.Base()
	return base.String()
}

// wantsJSON tells whether the client asks for JSON rather than a page; fallback is for clients that do not say.
func wantsJSON(c *fiber.Ctx, fallback bool) bool {
	switch accept := c.Get(fiber.HeaderAccept); accept {
	case "", "*/*":
		return fallback
	case fiber.MIMEApplicationJSON:
		return true
	}
	switch c.Accepts(fiber.MIMEApplicationJSON, fiber.MIMETextHTML) {
	case fiber.MIMEApplicationJSON:
		// Both may be preferred equally, as with */*;q=0.8.
		return fallback || c.Accepts(fiber.MIMETextHTML, fiber.MIMEApplicationJSON) == fiber.MIMEApplicationJSON
	case fiber.MIMETextHTML:
		return false
	}
	return fallback
}
