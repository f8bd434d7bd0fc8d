package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"balanza/e2e/testenv"
)

func TestURLsOfAServer(t *testing.T) {
	for host, want := range map[string][2]string{
		"":             {"http://127.0.0.1:80", "http://localhost:80"},
		"0.0.0.0":      {"http://127.0.0.1:80", "http://127.0.0.1:80"},
		"::":           {"http://[::1]:80", "http://[::1]:80"},
		"::1":          {"http://[::1]:80", "http://[::1]:80"},
		"10.9.9.1":     {"http://10.9.9.1:80", "http://10.9.9.1:80"},
		"fe80::1%eth0": {"http://[fe80::1%25eth0]:80", "http://[fe80::1%25eth0]:80"},
		"shop.lan":     {"http://shop.lan:80", "http://shop.lan:80"},
	} {
		if asked, shown := siteURL(host, 80), shownURL(host, 80); asked != want[0] || shown != want[1] {
			t.Errorf("%q: %s and %s, want %s and %s", host, asked, shown, want[0], want[1])
		}
	}
}

func TestAServerAnswersToTheNameItListensOn(t *testing.T) {
	for _, c := range [][3]string{
		{"", "", ""}, {"a.org", "", "a.org"}, {"a.org", "shop.lan", "a.org shop.lan"},
		{"a.org", "0.0.0.0", "a.org"}, {"a.org", "::", "a.org"}, {"a.org", "fe80::1%eth0", "a.org"},
	} {
		if got := withHost(c[0], c[1]); got != c[2] {
			t.Errorf("%q on %q: %q, want %q", c[0], c[1], got, c[2])
		}
	}
}

// checkUp runs a topology on host, and asks all that knows its address. prefix runs the commands in another place.
func (h *home) checkUp(host, url string, prefix ...string) {
	h.t.Helper()
	run := func(variable string, args ...string) (string, error) {
		cmd := h.command(args...)
		if len(prefix) > 0 {
			cmd.Args = append(append([]string{}, prefix...), append([]string{cmd.Path}, args...)...)
			cmd.Path, _ = exec.LookPath(prefix[0])
		}
		cmd.Env = append(cmd.Env, variable)
		out, err := cmd.CombinedOutput()
		return string(out), err
	}
	out, err := run("", "up", "-d", "--shift", "19000", "-i", "1", "--host", host)
	if err != nil || !strings.Contains(out, "Balanza is up: "+url+":27000\n") || !strings.Contains(out, url+":27081/info") {
		h.t.Fatalf("%s: up: %v: %s", host, err, out)
	}
	for _, port := range []string{"27080", "27081"} {
		if out, err := run("BALANZA_HOST="+host, "healthcheck", "--p", port); err != nil {
			h.t.Errorf("%s: healthcheck: %v: %s", host, err, out)
		}
	}
	if out, err := run("", "describe", "edge"); err != nil || !strings.Contains(out, url+":27000") {
		h.t.Errorf("%s: describe: %v: %s", host, err, out)
	}
	if out, err := run("", "up", "-d", "--shift", "19500"); err == nil || out != "balanza: Balanza is running already: "+url+":27000 (balanza ps, balanza down)\n" {
		h.t.Errorf("%s: a second up: %v: %s", host, err, out)
	}
	if len(prefix) == 0 {
		cmd := newHome(h.t).command("up", "--shift", "19000", "--host", host)
		out, err := cmd.CombinedOutput()
		if cmd.ProcessState.ExitCode() != exitFailure || !strings.Contains(string(out), "running already on port 27000") || bytes.Count(out, []byte("\n")) != 1 {
			h.t.Errorf("%s: a second up in another home: %v: %s", host, err, out)
		}
	}
	if out, err := run("", "down"); err != nil {
		h.t.Errorf("%s: down: %v: %s", host, err, out)
	}
}

func TestUpOnAnyAddress(t *testing.T) {
	t.Parallel()
	h := newHome(t)
	for host, url := range map[string]string{
		"127.0.0.2": "http://127.0.0.2", "::1": "http://[::1]", "0.0.0.0": "http://127.0.0.1", "::": "http://[::1]",
	} {
		h.checkUp(host, url)
	}
}

// The servers are online, but the balancer rejects requests: another client has the one connection that an address may have.
func TestUpIsSaidWhenARequestIsAnswered(t *testing.T) {
	t.Parallel()
	h := newHome(t)
	out, err := os.Create(filepath.Join(h.cwd, "out"))
	if err != nil {
		t.Fatal(err)
	}
	defer out.Close()
	said := func() string {
		content, err := os.ReadFile(out.Name())
		if err != nil {
			t.Fatal(err)
		}
		return string(content)
	}
	cmd := h.command("up", "--shift", "19100", "-i", "1")
	cmd.Env = append(cmd.Env, "BALANZA_LIMIT_CONNECTIONS=1")
	cmd.Stdout = out
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	var conn net.Conn
	eventually(t, "the balancer's port is open", func() bool {
		conn, err = net.Dial("tcp", "127.0.0.1:27100")
		return err == nil
	})
	defer conn.Close()
	eventually(t, "all servers are online", func() bool {
		return strings.Count(h.must("ps", "--json"), `"status": "online"`) == 6 // three servers, each with a worker
	})
	time.Sleep(300 * time.Millisecond) // for several requests
	if text := said(); text != "" {
		t.Errorf("up says %q while no request is answered", text)
	}
	conn.Close()
	eventually(t, "up says that it is up", func() bool { return strings.Contains(said(), "Balanza is up: http://localhost:27100\n") })
	if err := cmd.Process.Signal(syscall.SIGINT); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Wait(); err != nil {
		t.Error(err)
	}
}

func TestHealthcheckBypassesAProxy(t *testing.T) {
	t.Parallel()
	h := newHome(t)
	proxy := httptest.NewServer(http.NotFoundHandler())
	defer proxy.Close()
	site := httptest.NewUnstartedServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
	site.Listener.Close()
	var err error
	if site.Listener, err = net.Listen("tcp", ":0"); err != nil {
		t.Fatal(err)
	}
	site.Start()
	defer site.Close()
	host, err := os.Hostname() // net/http asks no proxy for localhost and loopback addresses
	if _, lookUpErr := net.LookupHost(host); err != nil || lookUpErr != nil {
		t.Skip("this machine has no name that leads to it")
	}
	cmd := h.command("healthcheck", "--host", host, "--p", fmt.Sprint(site.Listener.Addr().(*net.TCPAddr).Port))
	cmd.Env = append(cmd.Env, "HTTP_PROXY="+proxy.URL, "http_proxy="+proxy.URL)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Errorf("%v: %s", err, out)
	}
}

func TestAFreePortIsTold(t *testing.T) {
	t.Parallel()
	h := newHome(t)
	out := h.must("start", "--p", "0", "--name", "site")
	found := regexp.MustCompile(`^site is online: http://localhost:([1-9]\d*)\n$`).FindStringSubmatch(out)
	if found == nil {
		t.Fatalf("start says %q", out)
	}
	cmd := h.command("run", "-d", "--socket", "-i", "1", "--name", "api", "--port", "0", "--host", "::1", "--", "/usr/bin/env", roleVariable+"=server", os.Args[0])
	program, err := cmd.Output()
	if err != nil || !regexp.MustCompile(`^api is online: http://\[::1\]:[1-9]\d*\n$`).Match(program) {
		t.Errorf("%v: run says %q", err, program)
	}
	var all []struct {
		Name string
		Port int
	}
	if err := json.Unmarshal([]byte(h.must("ps", "--json", found[1])), &all); err != nil || len(all) != 1 || all[0].Name != "site" {
		t.Errorf("ps %s: %v, %+v", found[1], err, all)
	}
	h.must("reload", found[1])
	h.must("restart", found[1])
	answer, err := http.Get("http://127.0.0.1:" + found[1] + "/login")
	if err != nil {
		t.Fatal(err)
	}
	answer.Body.Close()
	if answer.StatusCode != http.StatusOK {
		t.Errorf("after a reload and a restart: %s", answer.Status)
	}
	// In the foreground the log tells it.
	serving := h.command("edge", "--p", "0", "--host", "::1", "--primary", "[::1]:"+found[1], "--default", "127.0.0.1:"+found[1])
	var log bytes.Buffer
	serving.Stderr = &log
	if err := serving.Start(); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the balancer is online", func() bool { return strings.Contains(h.must("ps"), "EDGE") })
	if err := serving.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	_ = serving.Wait()
	if !regexp.MustCompile(`"address":"http://\[::1\]:[1-9]\d*"`).MatchString(log.String()) {
		t.Errorf("the log does not tell the port: %s", log.String())
	}
}

// A name that a server is told to listen on is a name that it answers to, and its metrics too.
func TestAServerOnAHostName(t *testing.T) {
	t.Parallel()
	host, err := os.Hostname()
	if _, lookUpErr := net.LookupHost(host); err != nil || lookUpErr != nil {
		t.Skip("this machine has no name that leads to it")
	}
	h := newHome(t)
	metrics := net.JoinHostPort(host, testenv.FreePort(t))
	out := h.must("start", "--p", "0", "--name", "site", "--host", host, "--metrics", metrics)
	url := strings.TrimSpace(strings.TrimPrefix(out, "site is online: "))
	for _, address := range []string{url + "/login", "http://" + metrics + "/metrics"} {
		answer, err := http.Get(address)
		if err != nil {
			t.Fatal(err)
		}
		answer.Body.Close()
		if answer.StatusCode != http.StatusOK {
			t.Errorf("%s: %s", address, answer.Status)
		}
	}
}
