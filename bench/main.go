// Bench measures Balanza, beside what it replaces where there is such a thing, both in one run on one machine, and prints
// ratios:
//
//	go run ./bench            # every section
//	go run ./bench draws info # some
//
// It needs Linux; Node.js with npm, and wrk, where it has peers; Docker for MongoDB. It listens and connects on 127.0.0.1 alone.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
)

// section is a part of the bench that can be run on its own.
type section struct {
	name  string
	what  string
	peers bool // beside one on Node.js
	run   func(context.Context, *bench) error
}

var sections = []section{
	{"draws", "100,000,000 random numbers, beside a child process of Node", true, draws},
	{"calm", "/info while 500,000,000 numbers are being drawn, beside /info without", false, calm},
	{"info", "/info in FORK and CLUSTER, beside Express on Node alone and on node:cluster", true, info},
	{"memory", "resident memory of an idle worker, beside Node's", true, memory},
	{"reload", "reload and respawn, beside PM2", true, reload},
	{"latency", "delivery of a message to a page at another worker", false, latency},
	{"append", "messages stored in a second by 1 and by 8 processes", false, appends},
	{"idle", "what an idle process costs", false, idle},
	{"sockets", "5,000 idle websockets on one worker", false, idleSockets},
}

// bench is what every section needs.
type bench struct {
	balanza string // the program built from this tree
	peers   string // folder of the Node.js peers, installed
	temp    string // removed at the end
	mongo   string // URI of the MongoDB server, once it runs
	ends    []func()
}

// atEnd has f called at the end of the run.
func (b *bench) atEnd(f func()) { b.ends = append(b.ends, f) }

func (b *bench) end() {
	for _, f := range b.ends {
		f()
	}
}

func main() { os.Exit(run(os.Args[1:])) }

func run(names []string) int {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if len(names) > 0 && names[0] == appenderName {
		if err := appender(ctx, names[1:]); err != nil {
			fmt.Fprintln(os.Stderr, "bench:", err)
			return 1
		}
		return 0
	}
	chosen, err := choose(names)
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		return 2
	}
	temp, err := os.MkdirTemp("", "balanza-bench-")
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		return 1
	}
	defer func() { _ = os.RemoveAll(temp) }()

	b := &bench{temp: temp, balanza: filepath.Join(temp, "balanza")}
	defer b.end()
	err = b.prepare(ctx, slices.ContainsFunc(chosen, func(s section) bool { return s.peers }))
	for i := 0; err == nil && i < len(chosen); i++ {
		fmt.Printf("\n%s: %s\n(%s)\n", chosen[i].name, chosen[i].what, noise())
		err = chosen[i].run(ctx, b)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		return 1
	}
	return 0
}

func choose(names []string) ([]section, error) {
	if len(names) == 0 {
		return sections, nil
	}
	var chosen []section
	for _, name := range names {
		i := slices.IndexFunc(sections, func(s section) bool { return s.name == name })
		if i < 0 {
			var known []string
			for _, s := range sections {
				known = append(known, s.name)
			}
			return nil, fmt.Errorf("no section %q; there are %s", name, strings.Join(known, ", "))
		}
		chosen = append(chosen, sections[i])
	}
	return chosen, nil
}

// prepare builds Balanza and, where they are needed, installs the peers as their lock file says.
func (b *bench) prepare(ctx context.Context, peers bool) error {
	root, err := exec.CommandContext(ctx, "go", "list", "-m", "-f", "{{.Dir}}").Output()
	if err != nil {
		return errors.New("go list finds no module: run it from the repository")
	}
	module := strings.TrimSpace(string(root))
	// As the image has it: without cgo, which costs every process a megabyte of the C library.
	build := []string{"env", "CGO_ENABLED=0", "go", "build", "-trimpath", "-ldflags=-s -w", "-o", b.balanza, "./services/balanza"}
	if err := tool(ctx, module, build...); err != nil || !peers {
		return err
	}
	for program, from := range map[string]string{"wrk": "apt-get install wrk", "node": "Node.js", "npm": "Node.js"} {
		if _, err := exec.LookPath(program); err != nil {
			return fmt.Errorf("%s is missing: it comes with %s", program, from)
		}
	}
	b.peers = filepath.Join(module, "bench", "peers", "node")
	return tool(ctx, b.peers, "npm", "ci", "--silent", "--no-audit", "--no-fund")
}

// tool prints a command and runs it in dir; what it prints is shown only when it fails.
func tool(ctx context.Context, dir string, argv ...string) error {
	fmt.Println("$", strings.Join(argv, " "))
	cmd := exec.CommandContext(ctx, argv[0], argv[1:]...)
	cmd.Dir = dir
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("%s: %w\n%s", strings.Join(argv, " "), err, out)
	}
	return nil
}
