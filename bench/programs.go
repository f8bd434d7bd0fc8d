package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"
)

// manager is a process manager that runs a program on a port. Its commands run in dir with env.
type manager struct {
	name      string // Balanza or PM2
	address   string // 127.0.0.1:PORT
	instances int
	dir       string
	env       []string
	record    string // file of the POSTs that the program has carried out, one a line; none: the program answers only GET
	start     []string
	reload    []string
	end       []string
	scale     func(instances int) []string // nil: the manager cannot run several instances of this program on one port
	online    func(context.Context) ([]int, error)
	pids      []int // of the instances, after the last order

	sent   int             // POSTs so far: the next one's number
	total  requestCounts   // of all phases
	twice  int             // POSTs carried out twice
	times  []time.Duration // of the reloads
	posts  map[string]bool // the text of each POST with an answer
	phases map[string]*requestCounts
}

// requestCounts are the requests of a load, by their end. Any status but 200 is no answer.
type requestCounts struct{ answered, failedGets, unansweredPosts int }

// The phases of a run.
const (
	reloadPhase = "20 reloads"
	killPhase   = "10 kill -9 of an instance"
	scalePhase  = "scale 3 to 1 to 4"
)

// requestTimeout limits a dial, and a request with its answer: one that PM2 hands to an ending process may never be answered.
const requestTimeout = 2 * time.Second

// anyProgram is a program that knows only its port.
type anyProgram struct {
	dir     string
	command []string // after balanza run … --
	pm2     []string // after pm2 start, where $PORT is replaced by the port
	posts   bool     // it records POSTs
	kills   int
}

// programs compares `balanza run` with PM2 for programs that know only their port, under a load of GET and POST.
func programs(ctx context.Context, b *bench) error {
	// PM2 runs as a daemon with its home in the temporary folder, so it must be ended by a command of its own.
	defer func() { _ = b.runCommand(context.WithoutCancel(ctx), b.pm2(), "kill") }()
	site := filepath.Join(b.temp, "site")
	if err := os.MkdirAll(site, 0o755); err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(site, "index.html"), []byte("Hello\n"), 0o644); err != nil {
		return err
	}
	for _, p := range []anyProgram{
		{
			dir:     filepath.Join(b.module, "e2e", "testdata", "programs"),
			command: []string{"node", "server.js"}, pm2: []string{"server.js", "--name", "node", "-i", "3"}, posts: true, kills: 10,
		},
		{
			// It is killed as server.js is: kill -9 cannot be handled.
			dir:     b.peers,
			command: []string{"node", "graceful.js"}, pm2: []string{"graceful.js", "--name", "node", "-i", "3"}, posts: true,
		},
		{
			// PM2 cannot run several instances of it on one port.
			dir:     site,
			command: []string{"python3", "-m", "http.server", "$PORT"},
			pm2:     []string{"python3", "--name", "python3", "--interpreter", "none", "--", "-m", "http.server", "$PORT"}, kills: 10,
		},
	} {
		if _, err := exec.LookPath(p.command[0]); err != nil {
			fmt.Printf("NOT MEASURED: %s is missing\n", p.command[0])
			continue
		}
		ours, err := b.balanzaManager(p)
		if err != nil {
			return err
		}
		theirs, err := b.pm2Manager(p)
		if err != nil {
			return err
		}
		if err := compareManagers(ctx, p, ours, theirs); err != nil {
			return err
		}
	}
	return nil
}

// pm2 is the path of the installed PM2.
func (b *bench) pm2() string { return filepath.Join(b.peers, "node_modules", ".bin", "pm2") }

// balanzaManager returns `balanza run` with three instances of a program, not started yet.
func (b *bench) balanzaManager(p anyProgram) (*manager, error) {
	m, port, err := b.newManager("Balanza", p)
	if err != nil {
		return nil, err
	}
	name := p.command[0]
	m.instances = 3
	m.start = append([]string{b.balanza, "run", "-d", "--name", name, "-i", "3", "--port", port, "--"}, p.command...)
	m.reload, m.end = []string{b.balanza, "reload", name}, []string{b.balanza, "delete", name}
	m.scale = func(n int) []string { return []string{b.balanza, "scale", fmt.Sprintf("%s=%d", name, n)} }
	m.online = func(ctx context.Context) ([]int, error) { return m.balanzaInstances(ctx, b.balanza, name) }
	return m, nil
}

// pm2Manager returns PM2 with a program, not started yet: three instances in cluster mode, where that is possible, or one,
// whose reload is a restart.
func (b *bench) pm2Manager(p anyProgram) (*manager, error) {
	m, port, err := b.newManager("PM2", p)
	if err != nil {
		return nil, err
	}
	name, pm2 := p.command[0], b.pm2()
	m.env = append(m.env, "PORT="+port)
	m.start = []string{pm2, "start"}
	for _, arg := range p.pm2 {
		m.start = append(m.start, strings.ReplaceAll(arg, "$PORT", port))
	}
	m.instances, m.reload, m.end = 1, []string{pm2, "restart", name}, []string{pm2, "delete", name}
	if slices.Contains(p.pm2, "-i") {
		m.instances, m.reload = 3, []string{pm2, "reload", name}
		m.scale = func(n int) []string { return []string{pm2, "scale", name, fmt.Sprint(n)} }
	}
	m.online = func(ctx context.Context) ([]int, error) { return m.pm2Instances(ctx, pm2, name) }
	return m, nil
}

// newManager chooses a free port and starts nothing.
func (b *bench) newManager(name string, p anyProgram) (m *manager, port string, err error) {
	m = &manager{name: name, dir: p.dir, env: b.environment(), posts: map[string]bool{}, phases: map[string]*requestCounts{}}
	if m.address, port, err = freePort(); err != nil {
		return nil, "", err
	}
	if p.posts {
		m.record = filepath.Join(b.temp, "record-"+port)
		m.env = append(m.env, "RECORD="+m.record)
	}
	return m, port, nil
}

// compareManagers runs a program under both managers and gives them the same orders alternately: only the one that has an order
// to carry out is under load, so that neither slows the other down.
func compareManagers(ctx context.Context, p anyProgram, ours, theirs *manager) error {
	both, program := []*manager{ours, theirs}, strings.Join(p.command, " ")
	for _, m := range both {
		fmt.Println("$", strings.Join(append([]string{filepath.Base(m.start[0])}, m.start[1:]...), " "))
		defer func() { _, _ = m.run(context.WithoutCancel(ctx), m.end) }()
		if _, err := m.run(ctx, m.start); err != nil {
			return err
		}
		if err := m.awaitInstances(ctx, m.instances, nil); err != nil {
			return err
		}
	}
	for range 20 {
		for _, m := range both {
			if err := m.reloadUnderLoad(ctx); err != nil {
				return err
			}
		}
	}
	for n := range p.kills {
		for _, m := range both {
			if err := m.killUnderLoad(ctx, n); err != nil {
				return err
			}
		}
	}
	for _, m := range both {
		if m.scale == nil {
			continue
		}
		if err := m.scaleUnderLoad(ctx); err != nil {
			return err
		}
	}
	for _, m := range both {
		if err := m.checkRecord(); err != nil {
			return err
		}
		m.print(program)
	}
	reloaded := comparison{what: program + ", reload", unit: "s", digits: 3, peer: theirs.name}
	for i := range ours.times {
		reloaded.add(ours.times[i].Seconds(), theirs.times[i].Seconds())
	}
	reloaded.print()
	return nil
}

// print shows the counts of each phase and those of the run.
func (m *manager) print(program string) {
	for _, phase := range []string{reloadPhase, killPhase, scalePhase} {
		if counts := m.phases[phase]; counts != nil {
			fmt.Printf("%s, %s, %s: %s\n", program, m.name, phase, m.describe(*counts))
		}
	}
	fmt.Printf("%s, %s, in all: %s", program, m.name, m.describe(m.total))
	if m.record != "" {
		fmt.Printf(", %d POSTs carried out twice", m.twice)
	}
	fmt.Println()
}

// describe leaves out POSTs where none is sent.
func (m *manager) describe(c requestCounts) string {
	posts := ""
	if m.record != "" {
		posts = fmt.Sprintf(", %d POSTs without an answer", c.unansweredPosts)
	}
	return fmt.Sprintf("%d requests answered, %d GETs failed%s", c.answered, c.failedGets, posts)
}

// reloadUnderLoad measures the time from the order until the command has ended and a new connection is answered: `pm2
// restart` ends before the program listens.
func (m *manager) reloadUnderLoad(ctx context.Context) error {
	before := m.pids
	err := m.underLoad(ctx, reloadPhase, func() error {
		start := time.Now()
		if _, err := m.run(ctx, m.reload); err != nil {
			return err
		}
		if err := m.awaitAnswer(ctx); err != nil {
			return err
		}
		m.times = append(m.times, time.Since(start))
		return nil
	})
	if err != nil {
		return err
	}
	// A reload that replaced nothing would be the fastest.
	return m.awaitInstances(ctx, m.instances, before)
}

// killUnderLoad kills one of the instances and waits for its replacement.
func (m *manager) killUnderLoad(ctx context.Context, n int) error {
	victim := m.pids[n%len(m.pids)]
	return m.underLoad(ctx, killPhase, func() error {
		if err := syscall.Kill(victim, syscall.SIGKILL); err != nil {
			return err
		}
		return m.awaitInstances(ctx, m.instances, []int{victim})
	})
}

// scaleUnderLoad scales to one instance and to four.
func (m *manager) scaleUnderLoad(ctx context.Context) error {
	return m.underLoad(ctx, scalePhase, func() error {
		for _, n := range []int{1, 4} {
			if _, err := m.run(ctx, m.scale(n)); err != nil {
				return err
			}
			if err := m.awaitInstances(ctx, n, nil); err != nil {
				return err
			}
		}
		return nil
	})
}

// run runs a command of the manager to its end and returns its standard output.
func (m *manager) run(ctx context.Context, argv []string) ([]byte, error) {
	cmd := exec.CommandContext(ctx, argv[0], argv[1:]...)
	cmd.Dir, cmd.Env = m.dir, m.env
	var failure strings.Builder
	cmd.Stderr = &failure
	out, err := cmd.Output()
	if err != nil {
		err = fmt.Errorf("%s %s: %w\n%s%s", filepath.Base(argv[0]), argv[1], err, out, &failure)
	}
	return out, err
}

// balanzaInstances returns the pids of the instances that balanza ps shows as online.
func (m *manager) balanzaInstances(ctx context.Context, balanza, name string) (pids []int, err error) {
	out, err := m.run(ctx, []string{balanza, "ps", "--json"})
	if err != nil {
		return nil, err
	}
	var servers []struct {
		Name    string
		Workers []struct {
			Pid    int
			Status string
		}
	}
	if err := json.Unmarshal(out, &servers); err != nil {
		return nil, fmt.Errorf("balanza ps: %w", err)
	}
	for _, s := range servers {
		for _, w := range s.Workers {
			if s.Name == name && w.Status == "online" {
				pids = append(pids, w.Pid)
			}
		}
	}
	return pids, nil
}

// pm2Instances returns the pids of the instances that pm2 jlist shows as online.
func (m *manager) pm2Instances(ctx context.Context, pm2, name string) (pids []int, err error) {
	out, err := m.run(ctx, []string{pm2, "jlist"})
	if err != nil {
		return nil, err
	}
	var processes []struct {
		Name string
		Pid  int
		Env  struct{ Status string } `json:"pm2_env"`
	}
	if err := json.Unmarshal(out, &processes); err != nil {
		return nil, fmt.Errorf("pm2 jlist: %w", err)
	}
	for _, p := range processes {
		if p.Name == name && p.Env.Status == "online" {
			pids = append(pids, p.Pid)
		}
	}
	return pids, nil
}

// awaitInstances waits until n instances are online, none of them one of the ended, and a new connection is answered: at most
// 20 seconds.
func (m *manager) awaitInstances(ctx context.Context, n int, ended []int) error {
	ctx, cancel := context.WithTimeout(ctx, 20*time.Second)
	defer cancel()
	for {
		pids, err := m.online(ctx)
		if err == nil && len(pids) == n && !slices.ContainsFunc(pids, func(pid int) bool { return slices.Contains(ended, pid) }) {
			slices.Sort(pids)
			m.pids = pids
			return m.awaitAnswer(ctx)
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%s has instances %v, want %d and none of %v: %w", m.name, pids, n, ended, errors.Join(err, ctx.Err()))
		case <-time.After(50 * time.Millisecond):
		}
	}
}

// awaitAnswer waits until a GET on a new connection is answered, at most 20 seconds.
func (m *manager) awaitAnswer(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 20*time.Second)
	defer cancel()
	for {
		c := client{address: m.address}
		err := c.send(http.MethodGet, "")
		c.close()
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%s does not answer: %w", m.name, err)
		case <-time.After(time.Millisecond):
		}
	}
}

// underLoad runs f while four clients send requests, and counts these for the phase. Each client has had answers before f
// starts, and has more before it stops.
func (m *manager) underLoad(ctx context.Context, phase string, f func() error) error {
	const clients, answersAround = 4, 40
	counts := m.phases[phase]
	if counts == nil {
		counts = &requestCounts{}
		m.phases[phase] = counts
	}
	var mu sync.Mutex // of counts and m
	send := func(c *client, post bool) {
		method, text := http.MethodGet, ""
		if post {
			mu.Lock()
			m.sent++
			method, text = http.MethodPost, fmt.Sprint("post-", m.sent)
			mu.Unlock()
		}
		err := c.send(method, text)
		mu.Lock()
		defer mu.Unlock()
		for _, counts := range []*requestCounts{counts, &m.total} {
			switch {
			case err == nil:
				counts.answered++
			case post:
				counts.unansweredPosts++
			default:
				counts.failedGets++
			}
		}
		if err == nil && post {
			m.posts[text] = true
		}
	}
	loading, stop := context.WithCancel(ctx)
	var running sync.WaitGroup
	defer running.Wait()
	defer stop()
	for i := range clients {
		running.Go(func() {
			c := &client{address: m.address}
			defer c.close()
			for loading.Err() == nil {
				send(c, m.record != "" && i%2 == 1)
				time.Sleep(time.Millisecond) // the load is steady, not as high as possible
			}
		})
	}
	answers := func() error {
		ctx, cancel := context.WithTimeout(ctx, 20*time.Second)
		defer cancel()
		answered := func() int {
			mu.Lock()
			defer mu.Unlock()
			return counts.answered
		}
		for end := answered() + answersAround; answered() < end; time.Sleep(time.Millisecond) {
			if err := ctx.Err(); err != nil {
				return fmt.Errorf("%s does not answer the load: %w", m.name, err)
			}
		}
		return nil
	}
	for _, step := range []func() error{answers, f, answers} {
		if err := step(); err != nil {
			return err
		}
	}
	return nil
}

// checkRecord counts the POSTs that the program carried out twice. It fails when one that was answered is missing: then the
// counts mean nothing.
func (m *manager) checkRecord() error {
	if m.record == "" {
		return nil
	}
	content, err := os.ReadFile(m.record)
	if err != nil {
		return err
	}
	carriedOut := map[string]int{}
	for text := range strings.FieldsSeq(string(content)) {
		carriedOut[text]++
	}
	for _, n := range carriedOut {
		if n > 1 {
			m.twice++
		}
	}
	for text := range maps.Keys(m.posts) {
		if carriedOut[text] == 0 {
			return fmt.Errorf("%s: %s was answered and not carried out", m.name, text)
		}
	}
	return nil
}

// client sends requests on one connection until the server closes it. As browsers do, it opens another when it has seen the end
// of one between two requests. Unlike them, and net/http's client, it never repeats a request, which would hide a failure.
type client struct {
	address string
	conn    net.Conn
	reader  *bufio.Reader
}

// send sends one request to / and reads its answer. An answer other than 200 is an error.
func (c *client) send(method, text string) (err error) {
	request, err := http.NewRequest(method, "http://"+c.address+"/", strings.NewReader(text))
	if err != nil {
		return err
	}
	if c.conn != nil && c.ended() {
		c.close()
	}
	if c.conn == nil {
		if c.conn, err = net.DialTimeout("tcp", c.address, requestTimeout); err != nil {
			c.conn = nil
			return err
		}
		c.reader = bufio.NewReader(c.conn)
	}
	defer func() {
		if err != nil {
			c.close()
		}
	}()
	if err := c.conn.SetDeadline(time.Now().Add(requestTimeout)); err != nil {
		return err
	}
	if err := request.Write(c.conn); err != nil {
		return err
	}
	response, err := http.ReadResponse(c.reader, request)
	if err != nil {
		return err
	}
	defer func() { _ = response.Body.Close() }()
	if _, err := io.Copy(io.Discard, response.Body); err != nil {
		return err
	}
	if response.Close {
		c.close()
	}
	if response.StatusCode != http.StatusOK {
		return fmt.Errorf("%s %s", method, response.Status)
	}
	return nil
}

// ended reports whether the server has closed the connection.
func (c *client) ended() bool {
	// A deadline that has passed would keep the kernel from being asked.
	if err := c.conn.SetReadDeadline(time.Now().Add(100 * time.Microsecond)); err != nil {
		return true
	}
	_, err := c.reader.Peek(1)
	return !errors.Is(err, os.ErrDeadlineExceeded)
}

// close closes the connection; the next request opens another.
func (c *client) close() {
	if c.conn != nil {
		_ = c.conn.Close()
		c.conn = nil
	}
}
