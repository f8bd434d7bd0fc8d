// Bench measures Balanza and, for the sections that have one, its peer on Node.js, in one run on one machine, and prints the
// ratios:
//
//	go run ./bench            # every section
//	go run ./bench draws info # some
//
// It needs Linux; for the sections with a peer Node.js with npm, and wrk; for edge nginx and wrk; for MongoDB Docker. It uses only 127.0.0.1.
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

// section is a part of the bench that runs on its own.
type section struct {
	name        string
	description string
	needsPeers  bool // compares with a server on Node.js
	run         func(context.Context, *bench) error
}

// sections are all sections, in the order of a full run.
var sections = []section{
	{"draws", "100,000,000 random numbers, beside a child process of Node", true, draws},
	{"interference", "/info while 500,000,000 numbers are being drawn, beside /info without", false, interference},
	{"info", "/info in FORK and CLUSTER, beside Express on Node alone and on node:cluster", true, info},
	{"edge", "the edge beside nginx, in front of the same server", false, edge},
	{"memory", "private memory of an idle worker, beside Node's", true, memory},
	{"reload", "reload and respawn, beside PM2", true, reload},
	{"programs", "any program on a port: reload, kill and scale under load, beside PM2", true, programs},
	{"latency", "delivery of a message to a page at another worker", false, latency},
	{"append", "messages stored by 1 to 50 processes, and by 400 on an ideal store", false, appends},
	{"idle", "what an idle process costs", false, idle},
	{"records", "what the records of 40 processes cost, and a panel that shows them", false, records},
	{"sockets", "5,000 idle websockets on one worker", false, idleSockets},
}

// bench is the state that the sections of a run share.
type bench struct {
	balanza  string // path of the program built from this tree
	module   string // folder of this tree
	peers    string // folder of the Node.js peers, installed
	temp     string // folder, removed at the end
	mongo    string // URI of the MongoDB server, once it runs
	cleanups []func()
}

// atExit registers f to be called at the end of the run, also of one that fails or is interrupted.
func (b *bench) atExit(f func()) { b.cleanups = append(b.cleanups, f) }

// cleanUp calls the registered functions.
func (b *bench) cleanUp() {
	for _, f := range b.cleanups {
		f()
	}
}

func main() { os.Exit(run(os.Args[1:])) }

// run runs the named sections, or all, and returns the exit code: 2 for an unknown name, 1 for any other failure.
func run(names []string) int {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	// Section append starts this program again as an appender process.
	if len(names) > 0 && names[0] == appenderName {
		return exitCode(appender(ctx, names[1:]), 1)
	}
	chosen, err := chooseSections(names)
	if err != nil {
		return exitCode(err, 2)
	}
	// All files of the run are in one folder: the program, data, logs and control sockets.
	temp, err := os.MkdirTemp("", "balanza-bench-")
	if err != nil {
		return exitCode(err, 1)
	}
	defer func() { _ = os.RemoveAll(temp) }()

	b := &bench{temp: temp, balanza: filepath.Join(temp, "balanza")}
	defer b.cleanUp()
	// Node.js, npm and wrk are needed only when a chosen section has a peer.
	err = b.prepare(ctx, slices.ContainsFunc(chosen, func(s section) bool { return s.needsPeers }))
	for i := 0; err == nil && i < len(chosen); i++ {
		fmt.Printf("\n%s: %s\n(%s)\n", chosen[i].name, chosen[i].description, machineLoad())
		err = chosen[i].run(ctx, b)
	}
	return exitCode(err, 1)
}

// exitCode prints the error and returns the code, or 0 without an error.
func exitCode(err error, code int) int {
	if err == nil {
		return 0
	}
	fmt.Fprintln(os.Stderr, "bench:", err)
	return code
}

// chooseSections returns the sections of those names in their order, or all when there are no names.
func chooseSections(names []string) ([]section, error) {
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

// prepare builds Balanza and, when needed, installs the versions of the peers that their lock file names.
func (b *bench) prepare(ctx context.Context, peers bool) error {
	// This finds the module from any folder of the repository.
	root, err := exec.CommandContext(ctx, "go", "list", "-m", "-f", "{{.Dir}}").Output()
	if err != nil {
		return errors.New("go list finds no module: run it from the repository")
	}
	b.module = strings.TrimSpace(string(root))
	// The flags of the image. With cgo the C library would cost every process a megabyte.
	build := []string{"env", "CGO_ENABLED=0", "go", "build", "-trimpath", "-ldflags=-s -w", "-o", b.balanza, "./services/balanza"}
	if err := tool(ctx, b.module, build...); err != nil || !peers {
		return err
	}
	for program, from := range map[string]string{"wrk": "apt-get install wrk", "node": "Node.js", "npm": "Node.js"} {
		if _, err := exec.LookPath(program); err != nil {
			return fmt.Errorf("%s is missing: install it with %s", program, from)
		}
	}
	b.peers = filepath.Join(b.module, "bench", "peers", "node")
	return tool(ctx, b.peers, "npm", "ci", "--silent", "--no-audit", "--no-fund")
}

// tool prints a command and runs it in dir. Its output is part of the error when it fails, and dropped otherwise.
func tool(ctx context.Context, dir string, argv ...string) error {
	fmt.Println("$", strings.Join(argv, " "))
	cmd := exec.CommandContext(ctx, argv[0], argv[1:]...) // an interrupt ends it
	cmd.Dir = dir
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("%s: %w\n%s", strings.Join(argv, " "), err, out)
	}
	return nil
}
