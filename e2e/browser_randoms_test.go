package e2e

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/chromedp/cdproto/emulation"
	"github.com/chromedp/chromedp"
	"github.com/chromedp/chromedp/kb"
)

// progressArrives asks for a large draw's progress and returns nil when events come while it is drawn: the first half of
// the draw is over after the first event, and not before it as when a proxy holds the events back.
func progressArrives(site string) error {
	request, err := http.NewRequest(http.MethodGet, site+"/api/randoms?cant=1000000000", nil)
	if err != nil {
		return err
	}
	request.Header.Set("Accept", "text/event-stream")
	client := insecure()
	defer client.CloseIdleConnections()
	began := time.Now()
	answer, err := client.Do(request)
	if err != nil {
		return err
	}
	defer answer.Body.Close()
	var first time.Duration
	var last string
	events := bufio.NewScanner(answer.Body)
	for events.Scan() {
		name, isEvent := strings.CutPrefix(events.Text(), "event: ")
		if !isEvent {
			continue
		}
		if last == "" {
			first = time.Since(began)
		}
		last = name
	}
	took := time.Since(began)
	return expect(events.Err(), answer.StatusCode == http.StatusOK && last == "result" && first < took/2,
		"%s, the first event after %v, the last one, %q, after %v", answer.Status, first, last, took)
}

// occupy keeps the workers of the cluster busy with draws until stop is called, so that a draw of the page takes seconds.
func occupy(t *testing.T, f *fleet, draws int) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	var clients sync.WaitGroup
	for range draws {
		clients.Go(func() {
			for ctx.Err() == nil {
				request, _ := http.NewRequestWithContext(ctx, http.MethodGet,
					"http://"+f.address("cluster")+"/api/randoms?cant=1000000000", nil)
				if answer, err := http.DefaultClient.Do(request); err == nil { // a worker may be killed meanwhile
					_, _ = io.Copy(io.Discard, answer.Body)
					answer.Body.Close()
				}
			}
		})
	}
	stop = func() { cancel(); clients.Wait() }
	t.Cleanup(stop)
	return stop
}

// recordProgress makes the page keep the values of its bar in window.seen.
const recordProgress = `window.seen = [];
	new MutationObserver(() => seen.push(document.querySelector('#progress').value))
		.observe(document.querySelector('#progress'), { attributeFilter: ['value'] })`

// drawShown is the condition that a draw is over and its histogram shown.
const drawShown = `document.querySelector('#draw-cancel').hidden && !document.querySelector('#result-shown').hidden`

// drawBegun is the condition that the server has told how far it is.
const drawBegun = `document.querySelector('#progress').value > 0 && !document.querySelector('#draw-progress').hidden`

func TestRandomsPage(t *testing.T) {
	f := up(t, "BALANZA_LIMIT_DRAWS=4")
	pids := func() (pids []string) {
		for _, w := range f.ps()["cluster"].Workers {
			pids = append(pids, strconv.Itoa(w.Pid))
		}
		return pids
	}
	p := newTab(t)
	p.setLanguage("en-US")

	t.Run("draw", func(t *testing.T) {
		p.t = t
		p.open(f.url + "/login")
		p.click("a[href='/randoms']")
		p.awaitPath("/randoms")
		p.fill([2]string{"cant", "1000000"})
		if got := evaluate[string](p, "document.querySelector('#cant').value"); got != "1,000,000" {
			t.Errorf("the field shows %q", got)
		}
		p.click("[data-cant='1000000000']")
		evaluate[any](p, recordProgress)
		stop := occupy(t, f, 2) // else the bar might be there for one event only
		p.run(chromedp.SendKeys(chromedp.CSS("#cant"), "\r"))
		p.await(drawShown)
		stop()

		seen := evaluate[[]float64](p, "seen")
		between := slices.DeleteFunc(slices.Clone(seen), func(v float64) bool { return v <= 0 || v >= 1 })
		if !slices.IsSorted(seen) || len(slices.Compact(between)) < 2 {
			t.Errorf("the bar was at %v", seen)
		}
		columns := evaluate[int](p, "document.querySelector('.histogram-bars').getAttribute('d').match(/H/g).length")
		height := evaluate[float64](p, "document.querySelector('.histogram-bars').getBoundingClientRect().height")
		if columns != 1000 || height < 50 {
			t.Errorf("a picture of %d columns, %.0f px high", columns, height)
		}
		drawn := evaluate[int](p, `[...document.querySelectorAll('#groups tbody tr')]
			.reduce((sum, row) => sum + Number(row.cells[1].textContent.replaceAll(',', '')), 0)`)
		if mean := p.text("#mean"); drawn != 1_000_000_000 || mean != "1,000,000" {
			t.Errorf("the table has %d numbers, mean %s", drawn, mean)
		}
		worker, pid, _ := strings.Cut(p.text("#who-process"), ", process ")
		if p.text("#who") != "cluster" || !strings.HasPrefix(worker, "worker ") || !slices.Contains(pids(), pid) {
			t.Errorf("answered by %s, %s, %s; workers: %v", p.text("#who"), worker, pid, pids())
		}
		if verdict := p.text("#verdict"); !strings.Contains(verdict, "999 degrees of freedom") ||
			!strings.Contains(evaluate[string](p, "document.querySelector('#result-summary').textContent"), verdict) {
			t.Errorf("verdict: %q", verdict)
		}
		p.run(chromedp.SendKeys(chromedp.CSS("#number"), kb.ArrowRight))
		if got := p.text("#number-times"); !strings.HasPrefix(got, "501: ") {
			t.Errorf("the chosen number: %q", got)
		}
		top := "document.querySelector('.histogram-y span').textContent"
		before := evaluate[string](p, top)
		p.click("#zero")
		if after := evaluate[string](p, top); after != "0" || before == "0" {
			t.Errorf("the axis begins at %s, and from zero at %s", before, after)
		}
	})

	t.Run("burst", func(t *testing.T) {
		p.t = t
		p.sendBurst()
		shares := evaluate[map[string]int](p, `Object.fromEntries([...document.querySelectorAll('.burst-shares li')]
			.map((row) => [row.dataset.pid, Number(row.querySelector('.burst-count').textContent)]))`)
		sum := 0
		for pid, n := range shares {
			sum += n
			if !slices.Contains(pids(), pid) {
				t.Errorf("process %s is no worker of the cluster", pid)
			}
		}
		if sum != 100 || !strings.Contains(p.text(".burst-result"), "100 answers of") {
			t.Errorf("shares %v: %s", shares, p.text(".burst-result"))
		}
	})

	t.Run("cancel", func(t *testing.T) {
		p.t = t
		stop := occupy(t, f, 3) // with the page's draw these are all that the address may have
		p.click("#draw")
		p.await(drawBegun)
		p.click("#draw-cancel")
		p.awaitText("#draw-error", "Cancelled at")
		stop()
		// A draw that kept its place under the limit would make one of these fail for ever.
		answers := make(chan error, 4)
		eventually(t, "as many draws as the limit", func() error {
			for range 4 {
				go func() { answers <- status2xx("http://" + f.address("cluster") + "/api/randoms?cant=100000000") }()
			}
			var err error
			for range 4 {
				if e := <-answers; e != nil {
					err = e
				}
			}
			return err
		})
	})

	t.Run("too many", func(t *testing.T) {
		p.t = t
		occupy(t, f, 4)
		p.click("[data-cant='1000000']")
		eventually(t, "a draw that is rejected", func() error {
			p.click("#draw")
			p.await("document.querySelector('#draw-cancel').hidden")
			return expect(nil, strings.Contains(p.text("#draw-error"), "Too many draws"), "%q", p.text("#draw-error"))
		})
	})

	t.Run("invalid", func(t *testing.T) {
		p.t = t
		p.fill([2]string{"cant", "2000000000"})
		p.click("#draw")
		p.awaitText("#draw-error", "1 to 1,000,000,000")
		p.await(`document.activeElement.id === 'cant' && document.activeElement.ariaInvalid === 'true'`)
	})

	t.Run("killed", func(t *testing.T) {
		p.t = t
		stop := occupy(t, f, 2)
		p.click("[data-cant='1000000000']")
		p.click("#draw")
		p.await(drawBegun)
		for _, w := range f.ps()["cluster"].Workers {
			if err := syscall.Kill(w.Pid, syscall.SIGKILL); err != nil {
				t.Error(err)
			}
		}
		p.awaitText("#draw-error", "The connection broke at")
		stop()
		f.awaitOnline(fleetSize)
		p.click("[data-cant='1000000']")
		p.click("#draw")
		p.await(`document.querySelector('#draw-error').hidden && document.querySelector('#mean').textContent === '1,000'`)
	})

	t.Run("layout", func(t *testing.T) {
		p.t = t
		for _, screen := range []struct {
			width    int64
			language string
			verdict  string
		}{{360, "es-AR", "Chi cuadrado es "}, {360, "en-US", "Chi-square is "}, {1280, "es-AR", "Chi cuadrado es "}} {
			p.setLanguage(screen.language)
			for _, scheme := range []string{"light", "dark"} {
				p.emulate(screen.width, scheme)
				p.open(f.url + "/randoms")
				p.click("[data-cant='1000000000']")
				p.click("#draw")
				p.await(drawBegun)
				p.checkRules("while it draws")
				p.await(drawShown)
				p.awaitText("#verdict", screen.verdict)
				p.click("summary")
				p.sendBurst()
				p.checkRules(fmt.Sprintf("%d px, %s, %s", screen.width, scheme, screen.language))
			}
		}
	})

	t.Run("without scripts", func(t *testing.T) {
		p.t = t
		p.setLanguage("en-US")
		p.scripts(false)
		defer p.scripts(true)
		p.open(f.url + "/randoms")
		if text := p.text("main"); !strings.Contains(text, "Without JavaScript") || !strings.Contains(text, "The burst needs JavaScript") ||
			strings.Contains(text, "Send 100 requests") {
			t.Errorf("%s", text)
		}
		p.click("#draw")
		p.awaitPath("/api/randoms")
		var counts map[string]int
		if err := json.Unmarshal([]byte(p.text("pre")), &counts); err != nil || len(counts) != 1000 {
			t.Errorf("%d numbers, %v", len(counts), err)
		}
	})
}

// The page's probabilities are those of the distribution.
func TestHistogramStatistics(t *testing.T) {
	s := serve(t, t.TempDir())
	p := newTab(t)
	p.open(s.url + "/randoms")
	// Quantiles of chi-square with 999 degrees of freedom, by the incomplete gamma function.
	for x, want := range map[float64]float64{893: 0.99277, 998.333: 0.5, 1073.643: 0.05, 1105.917: 0.01} {
		got, err := chromedp.Run(p.ctx, chromedp.Evaluate[float64](fmt.Sprintf(
			"import('/assets/histogram.js').then((m) => m.probability(%v))", x), chromedp.EvalAwaitPromise))
		if err != nil || got-want > 2e-4 || want-got > 2e-4 {
			t.Errorf("probability of at least %v: %.5f, want %.5f; %v", x, got, want, err)
		}
	}
}

// status2xx asks for an address and returns an error unless the answer is complete and has a status of 200 to 299.
func status2xx(url string) error {
	answer, err := http.Get(url)
	if err != nil {
		return err
	}
	defer answer.Body.Close()
	_, err = io.Copy(io.Discard, answer.Body)
	return expect(err, answer.StatusCode/100 == 2, "%s: %s", url, answer.Status)
}

// scripts turns the scripts of the tab's pages on or off.
func (p *tab) scripts(on bool) {
	p.t.Helper()
	_, err := chromedp.Call(p.ctx, emulation.SetScriptExecutionDisabled, emulation.SetScriptExecutionDisabledParams{Value: !on})
	if err != nil {
		p.t.Fatal(err)
	}
}
