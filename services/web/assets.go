package web

import (
	"crypto/sha256"
	"embed"
	"fmt"
	"path"

	"github.com/gofiber/fiber/v2"
)

//go:embed assets/*
var assetFiles embed.FS

// asset is an embedded file that pages load.
type asset struct {
	content     []byte
	contentType string
	hash        string // of the content
}

// assets are the style, scripts and pictures of the pages, by file name.
type assets map[string]asset

// loadAssets reads the embedded files and computes their hashes.
func loadAssets() assets {
	all := make(assets)
	for file, content := range embedded(assetFiles) {
		sum := sha256.Sum256(content)
		all[path.Base(file)] = asset{content, contentTypes[path.Ext(file)], fmt.Sprintf("%x", sum[:8])}
	}
	return all
}

// contentTypes are the Content-Types of the assets by the ends of their names. Those of package mime depend on the
// machine's own tables.
var contentTypes = map[string]string{
	".js":  "text/javascript; charset=utf-8",
	".css": "text/css; charset=utf-8",
	".svg": "image/svg+xml",
}

// url returns an address that changes with the asset's content, so that browsers can cache it for ever.
func (a assets) url(name string) (string, error) {
	found, ok := a[name]
	if !ok {
		return "", fmt.Errorf("no asset %q", name)
	}
	return "/assets/" + name + "?v=" + found.hash, nil
}

// asset serves an asset, cacheable for ever under an address with its current hash.
func (s *Site) asset(c *fiber.Ctx) error {
	found, ok := s.assets[c.Params("name")]
	if !ok {
		return notImplemented(c)
	}
	etag := `"` + found.hash + `"`
	c.Set(fiber.HeaderETag, etag)
	// Modules import each other without a hash, and during a reload an old page may load them from a new process.
	c.Set(fiber.HeaderCacheControl, "no-cache")
	if c.Query("v") == found.hash {
		c.Set(fiber.HeaderCacheControl, "public, max-age=31536000, immutable")
	}
	if c.Get(fiber.HeaderIfNoneMatch) == etag {
		return c.SendStatus(fiber.StatusNotModified)
	}
	c.Set(fiber.HeaderContentType, found.contentType)
	c.Response().SetBodyRaw(found.content)
	return nil
}
