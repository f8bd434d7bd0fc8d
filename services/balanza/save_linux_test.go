package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"

	"balanza/e2e/testenv"
	"balanza/services/workers/control"
)

// runIn runs balanza in a folder, by the path given, with more variables.
func (h *home) runIn(dir string, variables []string, args ...string) (out string, status int) {
	h.t.Helper()
	cmd := h.command(args...)
	cmd.Dir = dir
	cmd.Env = append(append(cmd.Env, "PWD="+dir), variables...)
	output, err := cmd.CombinedOutput()
	if _, failed := errors.AsType[*exec.ExitError](err); err != nil && !failed {
		h.t.Fatal(err)
	}
	return string(output), cmd.ProcessState.ExitCode()
}

// servers returns the running servers by name.
func (h *home) servers() map[string]control.Status {
	h.t.Helper()
	var all []control.Status
	if err := json.Unmarshal([]byte(h.must("ps", "--json")), &all); err != nil {
		h.t.Fatal(err)
	}
	byName := map[string]control.Status{}
	for _, st := range all {
		byName[st.Name] = st
	}
	return byName
}

// A program of run: it writes its folder, its variables and its arguments into a file named by its process.
const reportingProgram = `env > "$0.$$.new"; echo "in=$(pwd -L) at=$(pwd -P)" >> "$0.$$.new"; mv "$0.$$.new" "$0.$$"; exec sleep 1000`

// reports returns what the processes of reportingProgram have written, and removes it.
func reports(t *testing.T, path string, count int) (all []string) {
	t.Helper()
	eventually(t, "the programs report", func() bool {
		found, _ := filepath.Glob(path + ".*")
		found = slices.DeleteFunc(found, func(name string) bool { return strings.HasSuffix(name, ".new") })
		if len(found) != count {
			return false
		}
		for _, name := range found {
			content, err := os.ReadFile(name)
			if err != nil {
				t.Fatal(err)
			}
			all = append(all, string(content))
			os.Remove(name)
		}
		return true
	})
	return all
}

func TestSavedServersComeBackAsTheyWere(t *testing.T) {
	t.Parallel()
	h := newHome(t)
	root := t.TempDir()
	for _, release := range []string{"1", "2"} {
		if err := os.MkdirAll(filepath.Join(root, release), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	current, report := filepath.Join(root, "current"), filepath.Join(root, "report")
	link := func(release string) {
		t.Helper()
		os.Remove(current)
		if err := os.Symlink(release, current); err != nil {
			t.Fatal(err)
		}
	}
	link("1")
	port := testenv.FreePort(t)
	for _, c := range []struct {
		variables []string
		args      []string
	}{
		{[]string{"BALANZA_DATA=../sold", "BALANZA_LIMIT_DRAWS=7", "BALANZA_EDGE_TOKEN=hidden1", "BALANZA_PORT=" + port, "DATABASE_URL=x://hidden2@y"},
			[]string{"start", "--m", "CLUSTER", "-i", "1", "--name", "site"}},
		{[]string{"NODE_ENV=production", "API_TOKEN=hidden3", "DATABASE_URL=postgres://u:hidden4@db:5432/shop?sslkey=hidden5", "MONGODB_URI=mongodb://hidden6"},
			[]string{"run", "-d", "-i", "2", "--name", "api", "--", "/bin/sh", "-c", reportingProgram, report}},
		{nil, []string{"start", "--p", testenv.FreePort(t), "--name", "off"}},
	} {
		if out, status := h.runIn(current, c.variables, c.args...); status != 0 {
			t.Fatalf("%q: status %d: %s", c.args, status, out)
		}
	}
	reports(t, report, 2)
	h.must("scale", "site=2")
	h.must("stop", "off")
	before := h.servers()

	saved := h.must("save")
	for _, line := range []string{ // the environment of the tests may have more
		`(?m)^api: (.*, )?API_TOKEN, (.*, )?DATABASE_URL(, .*)? is not saved; set it where resurrect runs$`,
		`(?m)^site: BALANZA_EDGE_TOKEN is not saved; set it where resurrect runs$`, `(?m)^saved 3 servers`,
	} {
		if !regexp.MustCompile(line).MatchString(saved) {
			t.Errorf("save does not say %s: %s", line, saved)
		}
	}
	list := filepath.Join(h.dir, "saved.json")
	content, err := os.ReadFile(list)
	if err != nil {
		t.Fatal(err)
	}
	if info, err := os.Stat(list); err != nil || info.Mode().Perm() != 0o600 || strings.Contains(string(content), "hidden") {
		t.Errorf("the list: %v, %v: %s", err, info.Mode(), content)
	}
	if shown := h.must("ps", "--json"); strings.Contains(shown, "NODE_ENV") || strings.Contains(shown, "DATABASE_URL") {
		t.Errorf("ps shows the environment: %s", shown)
	}
	h.must("delete")

	// The release before is gone, and another folder with settings of its own is where resurrect runs.
	link("2")
	elsewhere := t.TempDir()
	writeFile(t, filepath.Join(elsewhere, ".env"), "BALANZA_PORT=1\nBALANZA_LIMIT_DRAWS=1\nDATABASE_URL=postgres://env\n")
	out, status := h.runIn(elsewhere, []string{"BALANZA_MODE=FORK", "BALANZA_DATA=/nowhere", "NODE_ENV=test"}, "resurrect")
	want := "balanza: api is not started: it ran on postgres://db:5432/shop, and DATABASE_URL is not set here\n"
	if status != exitFailure || !strings.Contains(out, want) || strings.Count(out, "balanza: ") != 1 {
		t.Errorf("without the program's database: status %d: %s", status, out)
	}
	out, status = h.runIn(elsewhere, []string{"DATABASE_URL=postgres://u:new@db:5432/other"}, "resurrect")
	if want := "DATABASE_URL is postgres://db:5432/other here\n"; status != exitFailure || !strings.Contains(out, want) || strings.Contains(out, "new") {
		t.Errorf("with another database: status %d: %s", status, out)
	}
	out, status = h.runIn(elsewhere, []string{"DATABASE_URL=postgres://u:new@db:5432/shop"}, "resurrect")
	if status != 0 || !regexp.MustCompile(`(?m)^api: (.*, )?API_TOKEN(, .*)? is not set here$`).MatchString(out) {
		t.Errorf("with the program's database: status %d: %s", status, out)
	}

	after := h.servers()
	for name, was := range before {
		is := after[name]
		if is.Mode != was.Mode || is.Port != was.Port || is.Instances != was.Instances || is.Status != was.Status || is.Dir != was.Dir ||
			!slices.Equal(is.Command[1:], was.Command[1:]) {
			t.Errorf("%s was %+v\nand is %+v", name, was, is)
		}
	}
	if site := after["site"]; site.Mode != "CLUSTER" || site.Instances != 2 || site.Dir != current || after["off"].Status != "stopped" {
		t.Errorf("%+v", after)
	}
	if _, err := os.Stat(filepath.Join(root, "2", "sold")); err == nil {
		t.Error("the site has a folder of data in the release")
	}
	for _, text := range reports(t, report, 2) {
		for _, line := range []string{
			"NODE_ENV=production\n", "DATABASE_URL=postgres://u:new@db:5432/shop\n", "in=" + current + " at=" + filepath.Join(root, "2") + "\n",
		} {
			if !strings.Contains(text, line) {
				t.Errorf("a program lacks %q: %s", line, text)
			}
		}
		if strings.Contains(text, "MONGODB_URI=mongodb") {
			t.Errorf("a program has Balanza's database: %s", text)
		}
	}
}

func TestAFleetComesBackAsItWas(t *testing.T) {
	t.Parallel()
	h := newHome(t)
	if out, status := h.runIn(h.cwd, []string{"BALANZA_KEEP_MESSAGES=48h"}, "up", "-d", "--shift", "19300", "-i", "1"); status != 0 {
		t.Fatalf("status %d: %s", status, out)
	}
	h.must("scale", "cluster=3")
	h.must("save")
	before := h.servers()
	h.must("down")
	if out, status := h.runIn(t.TempDir(), []string{"MONGODB_URI=mongodb://u:p@elsewhere/db"}, "resurrect"); status != 0 {
		t.Fatalf("status %d: %s", status, out)
	}
	after := h.servers()
	for name, was := range before {
		if is := after[name]; is.Instances != was.Instances || is.Port != was.Port || is.Dir != h.cwd || is.Fleet != was.Fleet {
			t.Errorf("%s was %+v\nand is %+v", name, was, is)
		}
	}
	if after["cluster"].Instances != 3 || len(after) != 3 {
		t.Errorf("%+v", after)
	}
	for _, variable := range environmentOf(t, after["fork"].Workers[0].Pid) {
		if strings.HasPrefix(variable, "MONGODB_URI=m") || variable == "BALANZA_KEEP_MESSAGES=0s" {
			t.Errorf("a server has %s", variable)
		}
	}
	if !slices.Contains(environmentOf(t, after["fork"].Workers[0].Pid), "BALANZA_KEEP_MESSAGES=48h") {
		t.Error("a server has another BALANZA_KEEP_MESSAGES")
	}
	if out, status := h.runIn(h.cwd, nil, "resurrect"); status != 0 || !strings.Contains(out, "runs already") {
		t.Errorf("once more: status %d: %s", status, out)
	}
}

// environmentOf returns the variables with which a process was started.
func environmentOf(t *testing.T, pid int) []string {
	t.Helper()
	content, err := os.ReadFile(fmt.Sprintf("/proc/%d/environ", pid))
	if err != nil {
		t.Fatal(err)
	}
	return strings.Split(string(content), "\x00")
}

func TestNothingOverwritesAListUnasked(t *testing.T) {
	t.Parallel()
	h := newHome(t)
	list := filepath.Join(h.dir, "saved.json")
	if out, status := h.runIn(h.cwd, nil, "save"); status != exitFailure || !strings.Contains(out, "nothing runs") {
		t.Errorf("status %d: %s", status, out)
	}
	if _, err := os.Stat(list); err == nil {
		t.Error("an empty list was written")
	}
	h.must("start", "--p", testenv.FreePort(t), "--name", "one")
	h.must("save")
	h.must("delete")
	before, err := os.ReadFile(list)
	if err != nil {
		t.Fatal(err)
	}
	out, status := h.runIn(h.cwd, nil, "save")
	if status != exitFailure || strings.Count(out, "\n") != 1 || !strings.Contains(out, "--force") {
		t.Errorf("status %d: %s", status, out)
	}
	if after, err := os.ReadFile(list); err != nil || !bytes.Equal(before, after) {
		t.Errorf("%v: the list is %s", err, after)
	}
	h.must("save", "--force")
	h.must("resurrect")
	if len(h.servers()) != 0 {
		t.Error("the empty list brings back a server")
	}
	if backup, err := os.ReadFile(list + ".bak"); err != nil || !bytes.Equal(before, backup) {
		t.Errorf("%v: the backup is %s", err, backup)
	}
}

func TestResurrectRejectsAnotherStore(t *testing.T) {
	t.Parallel()
	h := newHome(t)
	data := filepath.Join(h.cwd, "data")
	for _, name := range []string{"one", "two"} { // one with a folder of its own, two with the home's
		var variables []string
		if name == "one" {
			variables = []string{"BALANZA_DATA=" + data}
		}
		dir := filepath.Join(h.cwd, name)
		if err := os.Mkdir(dir, 0o700); err != nil {
			t.Fatal(err)
		}
		if out, status := h.runIn(dir, variables, "start", "--p", testenv.FreePort(t), "--name", name); status != 0 {
			t.Fatalf("status %d: %s", status, out)
		}
	}
	h.must("save")
	h.must("delete")
	file := filepath.Join(h.cwd, "two", ".env")
	for env, want := range map[string]string{
		"MONGODB_URI=mongodb://u:hidden@mongo/shop": "two is not started: it ran on " + filepath.Join(h.dir, "data") + ", and MONGODB_URI is set here",
		"BALANZA_DATA=other":                        "two is not started: it ran on " + filepath.Join(h.dir, "data") + ", and BALANZA_DATA is " + filepath.Join(h.cwd, "two", "other") + " here",
	} {
		writeFile(t, file, env+"\n")
		out, status := h.runIn(h.cwd, nil, "resurrect")
		if status != exitFailure || !strings.Contains(out, "balanza: "+want+"\n") || strings.Count(out, "balanza: ") != 1 {
			t.Errorf("%s: status %d: %s", env, status, out)
		}
		if servers := h.servers(); len(servers) != 1 || servers["one"].Status != "online" {
			t.Errorf("%s: %+v", env, servers)
		}
		h.must("delete")
		os.Remove(file)
	}
	// The disk with the database is not mounted yet.
	if err := os.Rename(data, data+".away"); err != nil {
		t.Fatal(err)
	}
	out, status := h.runIn(h.cwd, nil, "resurrect")
	if status != exitFailure || !strings.Contains(out, "balanza: one is not started: it ran on "+data+", and its database is not there") {
		t.Errorf("status %d: %s", status, out)
	}
	if _, err := os.Stat(data); err == nil || len(h.servers()) != 1 {
		t.Errorf("a new database: %v, %+v", err, h.servers())
	}
}

// A server that had MongoDB, which does not need to answer for this.
func TestResurrectRejectsSQLiteInPlaceOfMongoDB(t *testing.T) {
	t.Parallel()
	h := newHome(t)
	cmd := h.command("--m", "CLUSTER", "-i", "1", "--name", "site", "--p", testenv.FreePort(t))
	cmd.Env = append(cmd.Env, "MONGODB_URI=mongodb://user:hidden@127.0.0.1:9,127.0.0.1:10/shop?appName=hidden@x")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = cmd.Process.Kill(); _ = cmd.Wait() }()
	eventually(t, "the master answers", func() bool { return len(h.servers()) == 1 })
	if out := h.must("save"); !strings.Contains(out, "site: MONGODB_URI is not saved; set it where resurrect runs\n") {
		t.Errorf("save says %s", out)
	}
	_ = cmd.Process.Kill()
	_ = cmd.Wait()
	if content, err := os.ReadFile(filepath.Join(h.dir, "saved.json")); err != nil || bytes.Contains(content, []byte("hidden")) {
		t.Errorf("%v: %s", err, content)
	}
	for variable, want := range map[string]string{
		"MONGODB_URI=": "MONGODB_URI is not set here",
		"MONGODB_URI=mongodb://user:hidden@other/shop": "MONGODB_URI is mongodb://other/shop here",
	} {
		out, status := h.runIn(h.cwd, []string{variable}, "resurrect")
		if want = "balanza: site is not started: it ran on mongodb://127.0.0.1:9,127.0.0.1:10/shop, and " + want + "\n"; status != exitFailure || out != want {
			t.Errorf("%s: status %d: %s, want %s", variable, status, out, want)
		}
	}
}

func TestSecretsAreNamedAndNotKept(t *testing.T) {
	for _, c := range []struct {
		name, value string
		secret      bool
	}{
		{"NODE_ENV", "production", false}, {"PATH", "/usr/local/bin:/usr/bin:/opt/a-very-long-path/bin", false}, {"TZ", "Europe/Madrid", false},
		{"TLS_KEY_FILE", "/etc/tls/key.pem", false}, {"MONGODB_PASSWORD_FILE", "/run/secrets/mongo", false}, {"BALANZA_LIMIT_URL", "4096", false},
		{"BALANZA_COOKIE", "shop", false},
		{"BALANZA_TRUSTED_PROXIES", "10.0.0.0/8,nginx", false}, {"CONFIG", "/etc/shop/config.json", false}, {"DEBUG", "express:*", false},
		{"API_TOKEN", "a", true}, {"STRIPE_KEY", "a", true}, {"MYSQL_PWD", "a", true}, {"db_password", "a", true}, {"BALANZA_EDGE_TOKEN", "a", true},
		{"MONGODB_URI", "mongodb://a", true}, {"SLACK_WEBHOOK_URL", "https://a/b", true}, {"UPSTREAM", "http://me:word@a", true},
		{"CERTIFICATES", "/etc", false}, {"STRIPE", "sk_live_51H8abcdefghijklmnop", true}, {"PEM", "-----BEGIN PRIVATE KEY-----", true}, {"BYTES", "\xff", true},
	} {
		if maySecret(c.name, c.value) != c.secret {
			t.Errorf("%s=%s: secret is %v", c.name, c.value, !c.secret)
		}
	}
	for _, c := range []struct {
		name, value, address string
		isStore              bool
	}{
		{"MONGODB_URI", "mongodb+srv://u:p@cluster.example/shop?retryWrites=true", "mongodb+srv://cluster.example/shop", true},
		{"MONGODB_URI", "mongodb://u:p%40ss@a:1,[::1]:2/?authSource=u@x", "mongodb://a:1,[::1]:2/", true},
		{"MONGODB_URI", "mongodb://localhost", "mongodb://localhost", true},
		{"REDIS", "redis://:word@cache:6379/0#word", "redis://cache:6379/0", true},
		{"DB", "pg://u:pa/ss@h/d", "pg://h/d", true}, {"DB", "pg://u:pa?ss", "", true}, {"DB", "pg://u:pass", "", true},
		{"DB_DSN", "u:p@tcp(db:3306)/shop", "", true}, {"HOOK_URL", "https://a/secret", "", false}, {"TOKEN", "abc", "", false},
	} {
		if address, isStore := storeAddress(c.name, c.value); address != c.address || isStore != c.isStore {
			t.Errorf("%s=%s: %q, %v", c.name, c.value, address, isStore)
		}
	}
}

func TestResurrectInTheForeground(t *testing.T) {
	t.Parallel()
	h := newHome(t)
	h.must("start", "--p", testenv.FreePort(t), "--m", "CLUSTER", "-i", "2", "--name", "one")
	h.must("up", "-d", "--shift", "19400", "-i", "1")
	// Too late for its database.
	if out, status := h.runIn(h.cwd, []string{"DATABASE_URL=pg://u:p@db/x"}, "run", "-d", "--name", "api", "--", "/bin/sleep", "1000"); status != 0 {
		t.Fatal(out)
	}
	h.must("save")
	h.must("delete")
	m := newManager(t, filepath.Join(h.dir, "notify"))
	cmd := h.command("resurrect", "--foreground")
	var errs bytes.Buffer
	cmd.Stderr = &errs
	cmd.Env = append(cmd.Env, "NOTIFY_SOCKET="+m.socket)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	eventually(t, "READY=1", func() bool { return m.all() == "READY=1" })
	if servers := h.servers(); len(servers) != 4 || servers["one"].Status != "online" || servers["cluster"].Status != "online" {
		t.Errorf("%+v", servers)
	}
	for _, name := range []string{"one", "edge"} {
		before := h.masterPid(name)
		if err := syscall.Kill(before, syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
		eventually(t, name+" is back", func() bool {
			st, ok := h.servers()[name]
			return ok && st.Pid != before && st.Status == "online"
		})
	}
	generation := func() int { return h.servers()["one"].Workers[0].Generation }
	before := generation()
	if err := cmd.Process.Signal(syscall.SIGHUP); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the reload", func() bool { return m.all() == "READY=1 RELOADING=1 READY=1" })
	if generation() != before+1 {
		t.Errorf("the generation was %d and is %d", before, generation())
	}
	h.must("delete", "one")
	h.must("start", "--p", testenv.FreePort(t), "--name", "mine") // which it does not keep
	if err := cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Wait(); err != nil {
		t.Error(err)
	}
	eventually(t, "STOPPING=1", func() bool { return m.all() == "READY=1 RELOADING=1 READY=1 STOPPING=1" })
	if servers := h.servers(); len(servers) != 1 || servers["mine"].Status != "online" {
		t.Errorf("after its end: %+v", servers)
	}
	if !strings.Contains(errs.String(), "api is not started") || strings.Count(errs.String(), "signal: killed") != 2 {
		t.Errorf("it reports %s", errs.String())
	}
}

func TestResurrectInTheForegroundWithNothingToKeep(t *testing.T) {
	t.Parallel()
	h := newHome(t)
	if out, status := h.runIn(h.cwd, nil, "resurrect", "--foreground"); status != exitFailure || !strings.Contains(out, "nothing is saved") {
		t.Errorf("status %d: %s", status, out)
	}
	writeFile(t, filepath.Join(h.dir, "saved.json"), `{"launches":[{"dir":"/","command":[],"servers":{"one":1},"stores":{"MONGODB_URI":"mongodb://a/b"}}]}`)
	out, status := h.runIn(h.cwd, nil, "resurrect", "--foreground")
	if status != exitFailure || !strings.HasSuffix(out, "balanza: nothing could be started\n") {
		t.Errorf("status %d: %s", status, out)
	}
}

// systemd-analyze reads the unit as systemd does.
func TestStartupPrintsAUnitThatSystemdAccepts(t *testing.T) {
	analyze, err := exec.LookPath("systemd-analyze")
	if err != nil {
		testenv.SkipOrFail(t, err)
	}
	for _, name := range []string{"plain", "with space", "100%n", `quo"te'd`, "$HOME ${x}", `back\slash`, "ñandú;#"} {
		dir := filepath.Join(t.TempDir(), name)
		if err := os.Mkdir(dir, 0o700); err != nil {
			t.Fatal(err)
		}
		program := filepath.Join(dir, "balanza")
		if err := os.Symlink(os.Args[0], program); err != nil {
			t.Fatal(err)
		}
		cmd := exec.Command(program, "startup")
		cmd.Env = append(os.Environ(), roleVariable+"=balanza", "BALANZA_HOME="+filepath.Join(dir, "home"))
		text, err := cmd.Output()
		if err != nil {
			t.Fatal(err)
		}
		unit := filepath.Join(t.TempDir(), "balanza.service")
		writeFile(t, unit, string(text))
		if out, err := exec.Command(analyze, "verify", "--man=no", unit).CombinedOutput(); err != nil || len(out) != 0 {
			t.Errorf("%s: %v: %s%s", name, err, out, text)
		}
		for _, line := range []string{"Type=notify\n", "Restart=on-failure\n", " resurrect --foreground\n"} {
			if !bytes.Contains(text, []byte(line)) {
				t.Errorf("%s: the unit lacks %q", name, line)
			}
		}
	}
}

// The servers of a balanza.yaml are separate processes. An update changes how they run, and not where they came from.
func TestServersOfAFileComeBack(t *testing.T) {
	t.Parallel()
	s := newStack(t)
	s.write("hidden1", "a", "x", 2)
	if out, status := s.runIn(s.cwd, []string{"API_TOKEN=hidden2", "NODE_ENV=production"}, "up", "-d", "-f", "balanza.yaml"); status != 0 {
		t.Fatalf("status %d: %s", status, out)
	}
	s.write("hidden1", "b", "x", 2)
	s.must("up", "-d", "-f", "balanza.yaml")
	s.must("scale", "web=3")
	if out := s.must("save"); !strings.Contains(out, "API_TOKEN") {
		t.Errorf("save says %s", out)
	}
	content, err := os.ReadFile(filepath.Join(s.dir, "saved.json"))
	if err != nil || bytes.Contains(content, []byte("hidden")) || !bytes.Contains(content, []byte(`"NODE_ENV": "production"`)) {
		t.Errorf("%v: %s", err, content)
	}
	before := s.servers()
	s.must("down", "-f", "balanza.yaml")
	if out, status := s.runIn(t.TempDir(), nil, "resurrect"); status != 0 {
		t.Fatalf("status %d: %s", status, out)
	}
	after := s.servers()
	for name, was := range before {
		if is := after[name]; is.Port != was.Port || is.Instances != was.Instances || is.Fleet != was.Fleet || is.Spec != was.Spec {
			t.Errorf("%s was %+v\nand is %+v", name, was, is)
		}
	}
	if answer := s.get(s.front); answer != "hidden1 b "+s.cwd || after["web"].Instances != 3 {
		t.Errorf("%q, %+v", answer, after["web"])
	}
}
