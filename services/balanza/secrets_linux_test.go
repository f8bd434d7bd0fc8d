package main

import (
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"balanza/e2e/testenv"
)

// A program of run gets its socket and the environment of whoever starts it, and none of Balanza's settings and secrets.
func TestProgramsGetNoSecrets(t *testing.T) {
	t.Parallel()
	h := newHome(t)
	file := filepath.Join(h.cwd, "environment")
	if err := os.WriteFile(filepath.Join(h.cwd, ".env"), []byte("MONGODB_PASSWORD_FILE=/hidden/file\nBALANZA_NAME=hidden\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := h.command("run", "-d", "--socket", "-i", "1", "--name", "api", "--port", testenv.FreePort(t), "--",
		"/bin/sh", "-c", `env > "$1.new" && mv "$1.new" "$1"; sleep 1000`, "sh", file)
	cmd.Env = append(cmd.Env, "MONGODB_URI=mongodb://hidden", "BALANZA_EDGE_TOKEN=hidden", "BALANZA_LIMIT_DRAWS=7", "WATCH_POLL=3s", "MINE=kept")
	if output, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, output)
	}
	environment, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(environment)) {
		name, _, _ := strings.Cut(line, "=")
		if strings.HasPrefix(name, "BALANZA_") || strings.HasPrefix(name, "MONGODB_") || name == "WATCH_POLL" ||
			strings.Contains(line, "hidden") {
			t.Errorf("the program has %s", line)
		}
	}
	for _, want := range []string{"MINE=kept\n", "LISTEN_FDS=1\n", "LISTEN_PID=", "PATH="} {
		if !strings.Contains(string(environment), want) {
			t.Errorf("the program lacks %s:\n%s", want, environment)
		}
	}
}

// With up, the servers believe the balancer, which has the secret of this start, and no other process of the machine. The
// secret stays while the processes change, and no command shows it.
func TestUpTrustsItsBalancer(t *testing.T) {
	t.Parallel()
	h := newHome(t)
	h.must("up", "-d", "--shift", "18000", "-i", "1")
	token := func(name string) string {
		var all []struct{ Workers []struct{ Pid int } }
		if err := json.Unmarshal([]byte(h.must("ps", "--json", name)), &all); err != nil || len(all) != 1 || len(all[0].Workers) != 1 {
			t.Fatalf("%v: %+v", err, all)
		}
		environment, err := os.ReadFile(fmt.Sprintf("/proc/%d/environ", all[0].Workers[0].Pid))
		if err != nil {
			t.Fatal(err)
		}
		for variable := range strings.SplitSeq(string(environment), "\x00") {
			if value, ok := strings.CutPrefix(variable, "BALANZA_EDGE_TOKEN="); ok {
				return value
			}
		}
		t.Fatalf("%s has no token", name)
		return ""
	}
	secret := token("fork")
	believed := func(port int, token string) bool {
		r, err := http.NewRequest(http.MethodGet, fmt.Sprintf("http://127.0.0.1:%d/info", port), nil)
		if err != nil {
			t.Fatal(err)
		}
		r.Header.Set("X-Request-Id", "mine")
		r.Header.Set("X-Forwarded-For", "192.0.2.1")
		r.Header.Set("X-Balanza-Edge-Token", token)
		answer, err := http.DefaultClient.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		answer.Body.Close()
		return answer.Header.Get("X-Request-Id") == "mine"
	}
	if len(secret) < 20 || secret != token("cluster") || secret != token("edge") {
		t.Errorf("the secrets are %q, %q and %q", secret, token("cluster"), token("edge"))
	}
	for _, port := range []int{26080, 26081} {
		if believed(port, "") || believed(port, "guess") || !believed(port, secret) {
			t.Errorf("port %d: without the secret %v, with it %v", port, believed(port, ""), believed(port, secret))
		}
	}
	h.must("reload", "fork")
	if now := token("fork"); now != secret || !believed(26080, secret) {
		t.Errorf("after a reload the secret is %q, was %q", now, secret)
	}
	for _, command := range []string{"ps", "ps --json", "describe all", "logs -n 1000 all"} {
		if shown := h.must(strings.Fields(command)...); strings.Contains(shown, secret) {
			t.Errorf("%s shows the secret", command)
		}
	}
}
