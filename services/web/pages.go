package web

import (
	"bytes"
	"embed"
	"fmt"
	"html/template"
	"path"
	"strings"

	"github.com/gofiber/fiber/v2"
	"golang.org/x/text/language"
)

//go:embed pages/*.html
var pageFiles embed.FS

// Page is the data of a template.
type Page struct {
	Lang  string // es or en
	Email string // of the user, where the page needs a session; the layout shows it with the log-out button
	Title string
	Error string // what was wrong with the form that was sent
	Field string // in which of its fields
	// Data depends on the page: for login and signup the values typed before by field, for info an infoPage, for
	// productos-test the products, for account an Account, for panel the program's name in commands, for loggedout the
	// email of the former user; nil for the others.
	Data  any
	texts texts
}

// T returns the text of a key in the page's language.
func (p Page) T(key string, args ...any) string { return p.texts.format(key, args...) }

// List returns its arguments, for templates that repeat a part for each.
func (p Page) List(names ...string) []string { return names }

// Texts returns the texts whose keys start with a prefix, without it, for a page's script.
func (p Page) Texts(prefix string) map[string]string {
	found := make(map[string]string)
	for key, text := range p.texts {
		if name, ok := strings.CutPrefix(key, prefix); ok {
			found[name] = text
		}
	}
	return found
}

// contentPolicy allows scripts, styles and connections of this server only, and pictures of any by https: a product's
// photo and a user's avatar are addresses that users type. Inline scripts and styles do not run, so injected ones do not either.
const contentPolicy = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' https:; " +
	"connect-src 'self'; font-src 'self'; form-action 'self'; frame-ancestors 'none'; base-uri 'none'"

// languages are those of the pages; the first is for clients that accept neither.
var languages = language.NewMatcher([]language.Tag{language.Spanish, language.English})

// loadPages returns the templates of the pages by name. Each is the layout with the blocks that the page's file defines.
func loadPages(a assets) map[string]*template.Template {
	layout := must(template.New("layout.html").Funcs(template.FuncMap{"asset": a.url}).ParseFS(pageFiles, "pages/layout.html"))
	pages := make(map[string]*template.Template)
	for file := range embedded(pageFiles) {
		if name := strings.TrimSuffix(path.Base(file), ".html"); name != "layout" {
			pages[name] = must(must(layout.Clone()).ParseFS(pageFiles, file))
		}
	}
	return pages
}

// show renders a page in the client's language and answers with it.
func (s *Site) show(c *fiber.Ctx, name string, p Page) error {
	page, err := s.render(lang(c), name, p)
	if err != nil {
		return err
	}
	return sendPage(c, page)
}

// render executes a page's template in a language.
func (s *Site) render(lang, name string, p Page) ([]byte, error) {
	p.Lang, p.texts = lang, s.texts[lang]
	p.Title = p.T(name + ".title")
	var b bytes.Buffer
	if err := s.pages[name].Execute(&b, p); err != nil {
		return nil, fmt.Errorf("page %s: %w", name, err)
	}
	return b.Bytes(), nil
}

// sendPage answers with a rendered page. Pages show an email or depend on the language, so no cache may keep them.
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

// lang is the page language that the client prefers, es or en.
func lang(c *fiber.Ctx) string {
	tag, _ := language.MatchStrings(languages, c.Get(fiber.HeaderAcceptLanguage))
	base, _ := tag.Base()
	return base.String()
}

// wantsJSON reports whether the client asks for JSON rather than a page; fallback is for clients that do not say.
func wantsJSON(c *fiber.Ctx, fallback bool) bool {
	preferred := c.Accepts(fiber.MIMEApplicationJSON, fiber.MIMETextHTML)
	reversed := c.Accepts(fiber.MIMETextHTML, fiber.MIMEApplicationJSON)
	if preferred != reversed || preferred == "" { // both are accepted to the same degree, or neither is
		return fallback
	}
	return preferred == fiber.MIMEApplicationJSON
}
