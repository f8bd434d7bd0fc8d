package e2e

import (
	"context"
	"fmt"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/chromedp/chromedp"
	"github.com/chromedp/chromedp/kb"

	"balanza/e2e/axe"
	"balanza/e2e/proctree"
	"balanza/services/store"
	"balanza/services/store/sqlitestore"
)

// seenWithin is the time in which the panel shows the death of a process, and the next one.
const seenWithin = 3 * time.Second

// openPanel opens the panel of a site and waits for the first figures.
func (p *tab) openPanel(site string) {
	p.t.Helper()
	p.open(site + "/panel")
	p.awaitPanel()
}

// awaitPanel waits until the panel shows figures.
func (p *tab) awaitPanel() {
	p.t.Helper()
	p.await("document.getElementById('panel').dataset.ready === 'true'")
}

// panelPids is the script for the pids of the tiles of processes that run.
const panelPids = "[...document.querySelectorAll('.tile:not([data-state=ended])')].map(e => Number(e.dataset.pid))"

// awaitPids waits until the tiles are those of these processes.
func (p *tab) awaitPids(want []int) {
	p.t.Helper()
	slices.Sort(want)
	eventually(p.t, "tiles", func() error {
		got := evaluate[[]int](p, panelPids)
		slices.Sort(got)
		if !slices.Equal(got, want) {
			return fmt.Errorf("the panel shows the processes %v, want %v", got, want)
		}
		return nil
	})
}

// panelCommand returns one of the commands that the panel shows.
func (p *tab) panelCommand(name string) string {
	p.t.Helper()
	selector := fmt.Sprintf("[data-command=%s] code", name)
	p.await(fmt.Sprintf("document.querySelector(%q) !== null", selector))
	return p.text(selector)
}

// choose clicks on the tile of a process, so that the panel's command kills that one.
func (p *tab) choose(pid int) {
	p.t.Helper()
	p.click(fmt.Sprintf(".tile[data-pid='%d'] .tile-name", pid))
	p.awaitText("[data-command=kill] code", "kill -9 "+strconv.Itoa(pid))
}

// eventTexts is the script for the texts of the events of a kind and a process.
func eventTexts(kind string, pid int) string {
	return fmt.Sprintf("[...document.querySelectorAll('.event[data-kind=%s][data-pid=\"%d\"]')].map(e => e.innerText).join()", kind, pid)
}

// checkDeath fails the test unless the panel shows the death of a process that was killed at a time, with its cause, and the
// process in its place, by event and by tile, within seenWithin.
func (p *tab) checkDeath(pid int, killed time.Time) {
	p.t.Helper()
	p.await(fmt.Sprintf(`%s.includes('killed (signal KILL)')`, eventTexts("ended", pid)))
	died := time.Since(killed)
	const successor = `[...document.querySelectorAll('.event[data-kind=came]')].find(e => e.innerText.includes('in place of %d:'))?.dataset.pid`
	p.await(fmt.Sprintf("%s.includes(Number(%s))", panelPids, fmt.Sprintf(successor, pid)))
	came := time.Since(killed)
	p.t.Logf("process %d: its death is shown after %v, the next process after %v", pid, died.Round(time.Millisecond),
		came.Round(time.Millisecond))
	if died > seenWithin || came > seenWithin {
		p.t.Errorf("process %d: its death is shown after %v, the next process after %v", pid, died, came)
	}
}

// shell runs a command that the panel shows, as a user would paste it.
func (f *fleet) shell(command string) {
	f.t.Helper()
	cmd := f.balanza()
	cmd = &exec.Cmd{Path: "/bin/sh", Args: []string{"sh", "-c", command}, Env: cmd.Env, Dir: cmd.Dir}
	if out, err := cmd.CombinedOutput(); err != nil {
		f.t.Fatalf("%s: %v: %s", command, err, out)
	}
}

// workers returns the pids of the processes that answer requests, those of the balancer not among them.
func (f *fleet) workers(names ...string) (pids []int) {
	for name, server := range f.ps() {
		if name != "edge" && (len(names) == 0 || slices.Contains(names, name)) {
			for _, w := range server.Workers {
				pids = append(pids, w.Pid)
			}
		}
	}
	return pids
}

// The panel shows every process of both topologies, deaths within three seconds, and commands that work.
func TestPanel(t *testing.T) {
	for _, profile := range []string{"", "cluster"} {
		t.Run("profile "+profile, func(t *testing.T) {
			f := upProfile(t, profile)
			p := newTab(t)
			p.signUp(f.url, "ana@example.com")
			p.openPanel(f.url)
			p.awaitPids(f.workers())
			if got := p.text("#entry-name"); got != "Edge" {
				t.Errorf("requests come through %q", got)
			}

			p.sendBurst()
			answered := map[string]int{}
			for _, share := range evaluate[[]string](p, "[...document.querySelectorAll('.burst-shares li')].map(e => e.dataset.pid + ' ' + e.querySelector('.burst-count').textContent)") {
				pid, count, _ := strings.Cut(share, " ")
				answered[pid], _ = strconv.Atoi(count)
			}
			t.Logf("a burst of 100 requests was answered by %v", answered)
			primaries := f.workers("cluster")
			if profile != "" {
				primaries = f.workers("replica-1", "replica-2", "replica-3", "replica-4")
			}
			for pid := range answered {
				if n, _ := strconv.Atoi(pid); !slices.Contains(primaries, n) || len(answered) > len(primaries) {
					t.Errorf("a burst was answered by %v, want %v", answered, primaries)
				}
			}

			victim := primaries[0]
			p.choose(victim)
			f.shell(p.panelCommand("kill"))
			p.checkDeath(victim, time.Now())
			// The panel's own websocket ends with this process, and comes back to the next one.
			victim = f.workers("fork")[0]
			p.choose(victim)
			f.shell(p.panelCommand("kill"))
			p.checkDeath(victim, time.Now())

			before := f.workers("cluster")
			f.shell(p.panelCommand("reload"))
			for _, pid := range before {
				p.await(fmt.Sprintf("%s.includes('reload')", eventTexts("ended", pid)))
			}
			p.awaitPids(f.workers())
			f.shell(p.panelCommand("scale"))
			if n := len(f.workers("cluster")); n == len(before) {
				t.Errorf("%d workers after the panel's command to scale", n)
			}
			p.awaitPids(f.workers())
			f.shell(p.panelCommand("list"))
		})
	}
}

// Without a connection the panel says that its figures are old, also when the server hangs, and it goes on when the server is
// back.
func TestPanelReconnects(t *testing.T) {
	s := serve(t, t.TempDir())
	p := newTab(t)
	p.signUp(s.url, "ana@example.com")
	p.openPanel(s.url)
	first := s.cmd.Process.Pid
	p.awaitPids([]int{first})
	proctree.Stop(t, first)
	p.awaitText("#state", "The server is slow")
	sendSignal(t, first, syscall.SIGCONT)
	p.awaitOnline()
	s.end(syscall.SIGKILL)
	p.awaitText("#state", "the figures are old")
	if got := evaluate[[]int](p, panelPids); len(got) != 1 {
		t.Errorf("without a connection the panel shows %v", got)
	}
	s.start()
	p.awaitOnline()
	p.awaitPids([]int{s.cmd.Process.Pid})
	p.await(eventTexts("ended", first) + " !== ''")
}

// Whoever uses the keyboard alone reaches all that the panel offers, sees where the focus is, and can choose a process.
func TestPanelKeyboard(t *testing.T) {
	s := serve(t, t.TempDir(), "--m", "CLUSTER", "-i", "3")
	p := newTab(t)
	p.signUp(s.url, "ana@example.com")
	p.openPanel(s.url)
	p.await(panelPids + ".length === 3")
	want := []string{".service-toggle", ".tile-name", "#chart-rate", "#chart-latency", "summary", ".events", ".burst-send", ".command code",
		".command button"}
	for range 60 {
		if len(want) == 0 {
			break
		}
		p.run(chromedp.KeyEvent("\t"))
		if !evaluate[bool](p, "getComputedStyle(document.activeElement).outlineStyle !== 'none'") {
			t.Errorf("no focus is visible on %s", evaluate[string](p, "document.activeElement.outerHTML.slice(0, 200)"))
		}
		want = slices.DeleteFunc(want, func(selector string) bool {
			return evaluate[bool](p, fmt.Sprintf("document.activeElement.matches(%q)", selector))
		})
	}
	if len(want) > 0 {
		t.Errorf("Tab does not reach %v", want)
	}

	evaluate[any](p, "document.querySelector('.tile-name').focus()")
	p.run(chromedp.KeyEvent(kb.ArrowRight), chromedp.KeyEvent(kb.ArrowRight), chromedp.KeyEvent("\r"))
	pid := evaluate[string](p, "document.querySelectorAll('.tile')[2].dataset.pid")
	p.awaitText("#process-title", pid)
	p.awaitText("[data-command=kill] code", "kill -9 "+pid)
	if got := evaluate[int](p, "[...document.querySelectorAll('.tile-name')].filter(e => e.tabIndex === 0).length"); got != 1 {
		t.Errorf("Tab reaches %d tiles of a service", got)
	}
	evaluate[any](p, "document.querySelector('.service-toggle').focus()")
	p.run(chromedp.KeyEvent("\r"))
	p.await("!document.querySelector('.tile').checkVisibility() && document.querySelector('.service-toggle').ariaExpanded === 'false'")
	evaluate[any](p, "document.getElementById('chart-rate').focus()")
	p.await("document.getElementById('chart-rate').ariaLabel.includes('at most')")
	p.run(chromedp.KeyEvent(kb.ArrowLeft))
	p.awaitText("#chart-reading", "/s, p50")

	// Plain http has no clipboard for scripts: then the command is selected.
	evaluate[any](p, "Object.defineProperty(navigator, 'clipboard', { value: undefined }); document.querySelector('.command button').focus()")
	p.run(chromedp.KeyEvent("\r"))
	p.await("getSelection().toString() === document.querySelector('.command code').textContent")
}

// The panel speaks the reader's language.
func TestPanelLanguages(t *testing.T) {
	s := serve(t, t.TempDir())
	p := newTab(t)
	p.signUp(s.url, "ana@example.com")
	for language, words := range map[string][]string{
		"es-AR": {"Quién responde", "En vivo", "Memoria privada", "empezó", "Copiar", "ahora", "Sumas de cada servicio"},
		"en-US": {"Who answers", "Live", "Private memory", "started", "Copy", "now", "Sums of each service"},
	} {
		p.setLanguage(language)
		p.openPanel(s.url)
		for _, word := range words {
			p.await(fmt.Sprintf("document.querySelector('main').textContent.includes(%q)", word))
		}
	}
}

// manyProcesses are so many that a tile has room for little.
const manyProcesses = 400

// putProcesses writes the records of many processes on four machines, with other figures each time.
func putProcesses(ctx context.Context, db store.Store, round int) error {
	now := time.Now()
	for i := range manyProcesses {
		server := i / 8
		err := db.PutProcess(ctx, store.Process{
			ID: fmt.Sprintf("many-%d", i), Service: "replica", Server: fmt.Sprintf("%012x:8080", server), Mode: "CLUSTER",
			Host: fmt.Sprintf("%012x", server), Machine: fmt.Sprintf("machine-%d", server%4), Worker: i%8 + 1, PID: 100 + i, Version: "test",
			State: store.Online, Started: now.Add(-time.Hour), Seen: now, Interval: time.Minute, Expires: now.Add(time.Hour),
			Requests: int64(round * 100), Rate: float64(i + round), P50: time.Millisecond, P99: 20 * time.Millisecond, Memory: 10 << 20,
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// 400 processes fit on a telephone: the tiles become small, are updated in place, and a filter finds one.
func TestPanelManyProcesses(t *testing.T) {
	home := t.TempDir()
	s := serve(t, home)
	db, err := sqlitestore.Open(t.Context(), filepath.Join(home, "data", "balanza.db"))
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	if err := putProcesses(t.Context(), db, 0); err != nil {
		t.Fatal(err)
	}
	p := newTab(t)
	p.emulate(360, "light")
	p.signUp(s.url, "ana@example.com")
	p.openPanel(s.url)
	p.await(fmt.Sprintf("%s.length === %d", panelPids, manyProcesses+1))
	if machines := evaluate[int](p, "document.querySelectorAll('.machine').length"); machines != 5 {
		t.Errorf("%d machines", machines)
	}
	evaluate[any](p, `window.tile = document.querySelector('.tile[data-pid="150"]'); window.longest = 0; window.moved = 0;
		new PerformanceObserver(list => { for (const e of list.getEntries()) longest = Math.max(longest, e.duration); }).observe({ type: 'longtask' });
		new PerformanceObserver(list => { for (const e of list.getEntries()) moved += e.value; }).observe({ type: 'layout-shift' });`)
	for round := 1; round <= 3; round++ {
		if err := putProcesses(t.Context(), db, round); err != nil {
			t.Fatal(err)
		}
		p.await(fmt.Sprintf("tile.isConnected && tile.querySelector('.rate').textContent === '%d/s'", 50+round))
	}
	t.Logf("400 processes: the longest task took %v ms", evaluate[float64](p, "longest"))
	if moved := evaluate[float64](p, "moved"); moved > 0.05 {
		t.Errorf("updates move the page's elements: %v", moved)
	}
	p.checkRules("400 processes at 360 px")

	p.fill([2]string{"filter", "machine-2 116"})
	p.awaitText("#filter-result", "1 of 401 processes")
	p.await("document.getElementById('topology').dataset.density !== 'small'")
	p.click(".tile:not([hidden]) .tile-name")
	p.awaitText("#process-machine", "machine-2")
	p.awaitText("[data-command=kill]", "on machine machine-2")
}

// sendBurst has the page send its 100 requests, and waits for their answers.
func (p *tab) sendBurst() {
	p.t.Helper()
	p.click(".burst-send")
	p.await("document.getElementById('burst').dataset.done === '100'")
}

// axePages are the pages that axe-core checks, as a user sees them.
var axePages = []string{"/panel", "/randoms", "/", "/account", "/info", "/productos-test", "/logout", "/login", "/signup"}

// TestAccessibility has axe-core check the pages, on a desktop and a telephone, in light and dark.
func TestAccessibility(t *testing.T) {
	script := axe.Script(t)
	s := serve(t, t.TempDir(), "--m", "CLUSTER", "-i", "2")
	p := newTab(t)
	p.signUp(s.url, "ana@example.com")
	for _, path := range axePages {
		p.open(s.url + path)
		if path == "/panel" {
			p.awaitPanel()
			p.click(".tile-name")
			p.sendBurst()
			sendSignal(t, s.onlyServer().Workers[0].Pid, syscall.SIGKILL)
			p.await("document.querySelector('.tile[data-state=ended]') !== null")
		}
		if path == "/randoms" {
			p.fill([2]string{"cant", "1000000"})
			p.drawRandoms()
		}
		evaluate[any](p, script+";0")
		for _, width := range []int64{1280, 360} {
			for _, scheme := range []string{"light", "dark"} {
				p.emulate(width, scheme)
				violations, err := chromedp.Run(p.ctx, chromedp.Evaluate[[]string](axe.Run, chromedp.EvalAwaitPromise))
				if err != nil {
					t.Fatal(err)
				}
				for _, violation := range violations {
					t.Errorf("%s at %d px, %s: %s", path, width, scheme, violation)
				}
			}
		}
	}
}

// panelOfStack opens the panel of the Compose stack, as a new user.
func panelOfStack(t *testing.T, email string) *tab {
	t.Helper()
	p := newTab(t)
	p.signUp(composeHTTP, email)
	p.openPanel(composeHTTP)
	p.awaitText("#entry-name", "nginx")
	return p
}

// shell runs a command that the panel shows, as a user would paste it into a terminal in the stack's folder.
func (s *stack) shell(t *testing.T, command string) {
	t.Helper()
	if out, err := s.command("sh", "-c", command).CombinedOutput(); err != nil {
		t.Fatalf("%s: %v: %s", command, err, out)
	}
}

// testPanelKill uses the panel of the stack without the profile.
func testPanelKill(t *testing.T, s *stack) {
	s.killInPanel(t, panelOfStack(t, "panel@example.com"))
}

// killInPanel kills a worker of the cluster and reloads it with the panel's commands.
func (s *stack) killInPanel(t *testing.T, p *tab) {
	t.Helper()
	const online = "[data-service=cluster] .tile[data-state=online]" // containers that Compose has replaced may be there, too
	p.await(fmt.Sprintf("document.querySelector(%q) !== null", online))
	pid := evaluate[int](p, fmt.Sprintf("Number(document.querySelector(%q).dataset.pid)", online))
	p.click(online + " .tile-name")
	p.awaitText("[data-command=kill] code", fmt.Sprintf("kill -9 %d'", pid))
	s.shell(t, p.panelCommand("kill"))
	p.checkDeath(pid, time.Now())
	s.shell(t, p.panelCommand("reload"))
	p.await("[...document.querySelectorAll('.event[data-kind=ended]')].some(e => e.innerText.includes('reload'))")
	s.shell(t, p.panelCommand("list"))
}

// testPanelReplicas sends a burst, and changes the number of replicas with the panel's command.
func testPanelReplicas(t *testing.T, s *stack) {
	const replicas = "document.querySelectorAll('[data-service=replica] .tile[data-state=%s]').length === %d"
	p := panelOfStack(t, "replicas@example.com")
	p.await(fmt.Sprintf(replicas, "online", 4))
	p.sendBurst()
	shares := evaluate[[]string](p, "[...document.querySelectorAll('.burst-shares li .burst-count')].map(e => e.textContent)")
	if !slices.Equal(shares, []string{"25", "25", "25", "25"}) {
		t.Errorf("the burst shows %v", shares)
	}
	s.killInPanel(t, p)

	began := time.Now()
	command := p.panelCommand("scale")
	if !strings.Contains(command, "--scale replica=2") {
		t.Fatalf("with four replicas the panel offers %q", command)
	}
	scaled := make(chan error, 1)
	go func() { scaled <- s.command("sh", "-c", command).Run() }()
	p.await(`[...document.querySelectorAll('.event')].filter(e => e.innerText.includes(':8080')
		&& /is draining|stopped/.test(e.innerText)).length >= 2`)
	seen := time.Now()
	if err := <-scaled; err != nil {
		t.Fatalf("%s: %v", command, err)
	}
	told := s.firstSignal(t, began)
	t.Logf("two replicas are shown as ending %v after docker's first signal", seen.Sub(told).Round(time.Millisecond))
	if seen.Sub(told) > seenWithin {
		t.Errorf("two replicas are shown as ending only %v after docker's first signal", seen.Sub(told))
	}
	p.await(fmt.Sprintf(replicas, "online", 2))
	s.shell(t, p.panelCommand("scale")) // four again
	p.await(fmt.Sprintf(replicas, "online", 4))
	s.waitHealthy(t)
	s.awaitEven(t, time.Now(), 4)
}

// firstSignal returns when Docker sent the first signal to a container of the stack since a time.
func (s *stack) firstSignal(t *testing.T, since time.Time) time.Time {
	t.Helper()
	lines := s.docker(t, "events", "--since", since.Format(time.RFC3339Nano), "--until", time.Now().Format(time.RFC3339Nano),
		"--filter", "event=kill", "--filter", "label=com.docker.compose.project="+composeProject, "--format", "{{.TimeNano}}")
	first, _, _ := strings.Cut(lines, "\n")
	nanoseconds, err := strconv.ParseInt(strings.TrimSpace(first), 10, 64)
	if err != nil {
		t.Fatalf("docker events: %q", lines)
	}
	return time.Unix(0, nanoseconds)
}
