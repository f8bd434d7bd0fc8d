package e2e

import (
	"bytes"
	"cmp"
	"image/color"
	"image/png"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/chromedp/cdproto/emulation"
	cdppage "github.com/chromedp/cdproto/page"
	"github.com/chromedp/chromedp"
)

// maxPicture is the greatest size of a picture of the README in bytes.
const maxPicture = 200 << 10

// screenshotsFolder is where the pictures are kept; empty: they are only checked.
var screenshotsFolder = os.Getenv("BALANZA_SCREENSHOTS")

// screenshotTraffic is how long the panel draws its lines before its pictures are made.
func screenshotTraffic() time.Duration {
	if screenshotsFolder == "" {
		return 3 * time.Second
	}
	return 20 * time.Second
}

// screenshots are the pictures of the README. prepare is done before a page's first picture.
var screenshots = []struct {
	path     string
	language string
	prepare  func(t *testing.T, f *fleet, p *tab)
	pictures []picture
}{
	{"/panel", "en-US", preparePanel, []picture{
		{"panel.png", 1280, 1330, "light"}, {"panel-dark.png", 1280, 1330, "dark"}, {"panel-phone.png", 390, 1250, "light"},
	}},
	{"/randoms", "en-US", prepareRandoms, []picture{
		{"randoms.png", 1280, 1100, "light"}, {"randoms-dark.png", 1280, 1100, "dark"}, {"randoms-phone.png", 390, 1250, "light"},
	}},
}

// picture is a file and the window that it shows, in CSS pixels.
type picture struct {
	name          string
	width, height int64
	scheme        string
}

// preparePanel kills a replica some seconds before the pictures, so that they show its death.
func preparePanel(t *testing.T, f *fleet, p *tab) {
	p.awaitPanel()
	time.Sleep(screenshotTraffic())
	p.sendBurst()
	victim := f.workers("replica-2")[0]
	sendSignal(t, victim, syscall.SIGKILL)
	p.checkDeath(victim, time.Now())
	time.Sleep(2 * time.Second) // the next one has answered requests
	evaluate[any](p, "document.activeElement.blur(); scrollTo(0, 0)")
}

// prepareRandoms draws the default number of random numbers and sends a burst.
func prepareRandoms(_ *testing.T, _ *fleet, p *tab) {
	p.drawRandoms()
	evaluate[any](p, "document.activeElement.blur(); scrollTo(0, 0)")
}

// drawRandoms has /randoms draw as many numbers as its form says, and send a burst.
func (p *tab) drawRandoms() {
	p.t.Helper()
	p.click("#draw")
	p.await(drawShown)
	p.sendBurst()
}

// TestScreenshots makes the README's pictures, of pages that show real requests. They are written into the folder that
// BALANZA_SCREENSHOTS names, or into a temporary one; there they are checked alike.
func TestScreenshots(t *testing.T) {
	folder, err := filepath.Abs(cmp.Or(screenshotsFolder, t.TempDir()))
	if err != nil {
		t.Fatal(err)
	}
	f := upProfile(t, "cluster")
	p := newTab(t)
	p.signUp(f.url, "ana@example.com")
	l := startLoad(t, f.address("edge"), 3, "GET /info", "GET /api/randoms?cant=1000", "GET /api/productos", "GET /api/randoms?cant=100000")
	for _, page := range screenshots {
		p.setLanguage(page.language)
		p.emulate(1280, "light")
		p.open(f.url + page.path)
		page.prepare(t, f, p)
		for _, picture := range page.pictures {
			content := p.photograph(picture)
			if err := os.WriteFile(filepath.Join(folder, picture.name), content, 0o644); err != nil {
				t.Fatal(err)
			}
			if wide := evaluate[int64](p, "document.documentElement.scrollWidth"); wide > picture.width {
				t.Errorf("%s: the page is %d wide", picture.name, wide)
			}
			checkPicture(t, picture, content)
		}
	}
	l.Stop()
}

// photograph makes a picture of the page's upper part.
func (p *tab) photograph(shot picture) []byte {
	p.t.Helper()
	p.emulate(shot.width, shot.scheme)
	if _, err := chromedp.Call(p.ctx, emulation.SetDeviceMetricsOverride, emulation.SetDeviceMetricsOverrideParams{
		Width: shot.width, Height: shot.height, DeviceScaleFactor: 1}); err != nil {
		p.t.Fatal(err)
	}
	time.Sleep(1500 * time.Millisecond) // transitions have ended, and the next figures are there
	taken, err := chromedp.Call(p.ctx, cdppage.CaptureScreenshot, cdppage.CaptureScreenshotParams{Format: "png"})
	if err != nil {
		p.t.Fatal(err)
	}
	return taken.Data
}

// checkPicture fails the test unless a picture has its size and shows something in each quarter of its height.
func checkPicture(t *testing.T, want picture, content []byte) {
	t.Helper()
	shown, err := png.Decode(bytes.NewReader(content))
	if err != nil {
		t.Fatal(err)
	}
	size := shown.Bounds().Size()
	t.Logf("%s: %d × %d, %d bytes", want.name, size.X, size.Y, len(content))
	if size.X != int(want.width) || size.Y != int(want.height) || len(content) > maxPicture {
		t.Errorf("%s: %d × %d, %d bytes", want.name, size.X, size.Y, len(content))
	}
	for quarter := range 4 {
		colors := map[color.Color]bool{}
		for y := quarter * size.Y / 4; y < (quarter+1)*size.Y/4; y++ {
			for x := range size.X {
				colors[shown.At(x, y)] = true
			}
		}
		if len(colors) < 8 {
			t.Errorf("%s: %d colours in quarter %d", want.name, len(colors), quarter+1)
		}
	}
}
