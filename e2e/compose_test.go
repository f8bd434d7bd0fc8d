package e2e

import (
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"balanza/e2e/testenv"
)

// TestComposeConfig checks the configuration of a user without a .env.
func TestComposeConfig(t *testing.T) {
	needDocker(t)
	s := newStack(t)
	s.env = slices.DeleteFunc(s.env, func(v string) bool { return strings.Contains(v, "_PORT") })
	var config struct {
		Services map[string]struct {
			Image       string
			CapAdd      []string `json:"cap_add"`
			CapDrop     []string `json:"cap_drop"`
			ReadOnly    bool     `json:"read_only"`
			SecurityOpt []string `json:"security_opt"`
			MemLimit    string   `json:"mem_limit"`
			CPUQuota    any      `json:"cpu_quota"`
			PidsLimit   int      `json:"pids_limit"`
			Restart     string
			StopGrace   string `json:"stop_grace_period"`
			Networks    map[string]any
			Environment map[string]string
			Logging     struct{ Options map[string]string }
			Ports       []struct{ Published string }
			Deploy      struct{ Replicas int }
		}
		Networks map[string]struct{ Internal bool }
	}
	if err := json.Unmarshal([]byte(s.compose(t, "--profile", "monitoring", "config", "--format", "json")), &config); err != nil {
		t.Fatal(err)
	}
	published := map[string]string{
		"nginx": "80 443", "fork": "8080", "cluster": "8081", "replica": "8082-8085", "mongo": "", "init": "", "certificates": "",
		"prometheus": "9090", "grafana": "3000",
	}
	if len(config.Services) != len(published) {
		t.Errorf("%d services, want %d", len(config.Services), len(published))
	}
	for name, service := range config.Services {
		var ports []string
		for _, port := range service.Ports {
			ports = append(ports, port.Published)
		}
		if got := strings.Join(ports, " "); got != published[name] {
			t.Errorf("%s publishes %q, want %q", name, got, published[name])
		}
		switch {
		case !service.ReadOnly:
			t.Errorf("%s: the root is writable", name)
		case !slices.Equal(service.CapDrop, []string{"ALL"}) || len(service.CapAdd) > 0 && name != "init" && name != "certificates":
			t.Errorf("%s: capabilities %v of %v", name, service.CapAdd, service.CapDrop)
		case !slices.Contains(service.SecurityOpt, "no-new-privileges:true"):
			t.Errorf("%s: may gain privileges", name)
		case service.MemLimit == "" || service.CPUQuota == nil || service.PidsLimit == 0:
			t.Errorf("%s: memory %q, CPU %v, pids %d: one has no limit", name, service.MemLimit, service.CPUQuota, service.PidsLimit)
		case service.Logging.Options["max-size"] == "":
			t.Errorf("%s: its log has no maximum size", name)
		case service.Restart != "unless-stopped" && name != "init":
			t.Errorf("%s: restart %q", name, service.Restart)
		}
		if timeout, ok := service.Environment["BALANZA_DRAIN_TIMEOUT"]; ok {
			drain, _ := time.ParseDuration(timeout)
			delay, _ := time.ParseDuration(service.Environment["BALANZA_DRAIN_DELAY"])
			grace, err := time.ParseDuration(service.StopGrace)
			if err != nil || grace <= drain+delay {
				t.Errorf("%s: a stop takes %v + %v, and is killed after %q", name, delay, drain, service.StopGrace)
			}
		}
	}
	if n := config.Services["replica"].Deploy.Replicas; n != 4 {
		t.Errorf("%d replicas", n)
	}
	if mongo := config.Services["mongo"]; len(mongo.Networks) != 1 || !config.Networks["data"].Internal {
		t.Errorf("MongoDB is on %v, and its network is internal: %v", mongo.Networks, config.Networks["data"].Internal)
	}
	if _, ok := config.Services["nginx"].Networks["data"]; ok {
		t.Error("nginx is on MongoDB's network")
	}
}

// TestCompose drives one stack through its life: both topologies, every benefit of the proxy, faults, a rolling update.
func TestCompose(t *testing.T) {
	if !testenv.All() {
		t.Skip("many minutes with Docker: set BALANZA_TEST_ALL=1")
	}
	s := newStack(t)
	s.removeAtEnd(t)

	if out, err := s.command("docker", "compose", "up", "--detach", "--build", "--wait").CombinedOutput(); err != nil {
		t.Fatalf("docker compose up: %v\n%s", err, tail(string(out), 4000))
	}
	for _, test := range []struct {
		name string
		run  func(*testing.T, *stack)
	}{
		{"image", testImage},
		{"healthy without the profile", func(t *testing.T, s *stack) { testHealthy(t, s, "nginx", "certificates", "mongo", "fork", "cluster") }},
		{"routes without the profile", testRoutesWithoutProfile},
		{"shares", testShares},
		{"secrets", testSecrets},
		{"database", testDatabase},
		{"panel without the profile", testPanelKill},
		{"monitoring without the profile", func(t *testing.T, s *stack) {
			testMonitoring(t, s, map[string]int{"fork": 1, "cluster": 1})
			stopMonitoring(t, s)
		}},
	} {
		t.Run(test.name, func(t *testing.T) { test.run(t, s) })
	}

	usual := s.env
	s.env = append(slices.Clone(usual), strings.Split(chatLimits, "\n")...)
	s.compose(t, "up", "--detach", "--build", "--wait") // docker compose --profile cluster up
	s.awaitNginx(t)
	for _, test := range []struct {
		name string
		run  func(*testing.T, *stack)
	}{
		{"healthy with the profile", func(t *testing.T, s *stack) {
			testHealthy(t, s, "nginx", "certificates", "mongo", "fork", "cluster", "replica", "replica", "replica", "replica")
		}},
		{"balance", testBalance},
		{"panel with the profile", testPanelReplicas},
		{"monitoring", func(t *testing.T, s *stack) {
			testMonitoring(t, s, map[string]int{"fork": 1, "cluster": 1, "replica": 4})
			testMonitoringFaults(t, s)
			stopMonitoring(t, s)
		}},
		{"sent once", testSentOnce},
		{"hangs", testHangs},
		{"chat", testChat},
		{"benefits", testBenefits},
		{"scale", testScale},
		{"nginx's files", testNginxFiles},
		{"certificates", testCertificates},
		{"kills", testKills},
		{"pauses", testPauses},
		{"reboot", testReboot},
		{"reload", testReload},
		{"slow clients", testSlowClients},
		{"sizes", testSizes},
		{"attacks", testAttacks},
		{"attackers", func(t *testing.T, s *stack) {
			s.env = usual
			testAttackers(t, s)
		}},
		{"HTTPS forced", testForceHTTPS},
		{"update", testUpdate},
		{"four times two", testFourTimesTwo},
	} {
		if !t.Run(test.name, func(t *testing.T) { test.run(t, s) }) {
			return // the other tests need a stack without a fault
		}
	}
}

// failureLines removes the lines of successful requests and of level INFO from a log.
func failureLines(logs string) string {
	var b strings.Builder
	for line := range strings.Lines(logs) {
		if !strings.Contains(line, `"status":2`) && !strings.Contains(line, `"level":"INFO"`) {
			b.WriteString(line)
		}
	}
	return b.String()
}

func testImage(t *testing.T, s *stack) {
	out := s.docker(t, "image", "inspect", "--format", "{{.Size}} {{.Config.User}}", composeProject+"-fork")
	var size int
	var user string
	if _, err := fmt.Sscan(out, &size, &user); err != nil {
		t.Fatal(err)
	}
	t.Logf("image: %.1f MB, user %s", float64(size)/1e6, user)
	if size > 30e6 || strings.HasPrefix(user, "0") {
		t.Errorf("image: %d bytes, user %q", size, user)
	}
}

// testHealthy checks that `docker compose ps` lists exactly these services, all healthy.
func testHealthy(t *testing.T, s *stack, want ...string) {
	var got []string
	for line := range strings.Lines(s.compose(t, "ps", "--format", "{{.Service}} {{.Health}}")) {
		service, health, _ := strings.Cut(strings.TrimSpace(line), " ")
		if health != "healthy" {
			t.Errorf("%s is %q", service, health)
		}
		got = append(got, service)
	}
	slices.Sort(got)
	slices.Sort(want)
	if !slices.Equal(got, want) {
		t.Errorf("containers of %v, want %v", got, want)
	}
}

func testRoutesWithoutProfile(t *testing.T, s *stack) {
	services := s.services(t)
	for path, want := range map[string]string{
		"/info": "fork", "/login": "fork", "/api/productos-test": "fork",
		"/api/randoms?cant=1000": "cluster", "/api/randoms/?cant=1000": "cluster", "/test/randoms?cant=1000": "cluster",
		"/test/random?cant=1000": "cluster", "/test/random/?cant=1000": "cluster",
	} {
		counts, err := tally(path, 16)
		if err != nil {
			t.Error(err)
		}
		for id := range counts {
			if services[id] != want {
				t.Errorf("%s was answered by %s, want %s", path, services[id], want)
			}
		}
	}
	answer, err := ask(http.MethodGet, composeHTTP+"/api/randoms?cant=1000", "")
	if err != nil {
		t.Fatal(err)
	}
	workers := s.compose(t, "exec", "--no-TTY", "cluster", "balanza", "ps")
	if pid := answer.Header.Get("X-Balanza-Pid"); pid == "1" || !strings.Contains(workers, pid) {
		t.Errorf("process %s answered, which is not a worker in\n%s", pid, workers)
	}
}

// testSecrets searches the places where the passwords must not be, and starts the stack once more.
func testSecrets(t *testing.T, s *stack) {
	read := func() string {
		return s.compose(t, "exec", "--no-TTY", "mongo", "cat", "/secrets/mongo-password", "/secrets/mongo-root-password")
	}
	passwords := read()
	application, root := passwords[:26], passwords[26:]
	everywhere := s.everywhere(t) + s.docker(t, "image", "inspect", composeProject+"-fork")
	if strings.Contains(everywhere, application) || strings.Contains(everywhere, root) {
		t.Error("a password is in the configuration, a process list, a log, an image or an environment")
	}
	for _, file := range []string{"mongo-password", "mongo-root-password"} {
		if _, err := s.try("exec", "--no-TTY", "nginx", "cat", "/secrets/"+file); err == nil {
			t.Errorf("nginx can read %s", file)
		}
	}
	if out, err := s.command("docker", "compose", "up", "--detach", "--wait").CombinedOutput(); err != nil {
		t.Fatalf("a second start: %v\n%s", err, out)
	}
	if read() != passwords {
		t.Error("a second start made new passwords")
	}
}

func testDatabase(t *testing.T, s *stack) {
	shell := func(args ...string) (string, error) {
		return s.try(append([]string{"exec", "--no-TTY", "mongo", "mongosh", "--quiet", "--norc", "--host", "mongo"}, args...)...)
	}
	if out, err := shell("--eval", `db.getSiblingDB("balanza").users.countDocuments({})`); err == nil {
		t.Errorf("MongoDB answers an unauthenticated client: %s", out)
	}
	// The same query works with the application's password, which is not on the command line.
	out, err := shell("--eval", `db.getSiblingDB("balanza").auth("balanza", fs.readFileSync("/secrets/mongo-password", "utf8"));`+
		`print("users:", db.getSiblingDB("balanza").users.countDocuments({}))`)
	if err != nil || !strings.Contains(out, "users:") {
		t.Errorf("the application's user: %v %s", err, out)
	}
	if out, err := s.try("exec", "--no-TTY", "nginx", "curl", "--max-time", "3", "--silent", "telnet://mongo:27017"); err == nil {
		t.Errorf("nginx reaches MongoDB: %s", out)
	}
}

func testBalance(t *testing.T, s *stack) {
	s.compose(t, "exec", "--no-TTY", "nginx", "nginx", "-t")
	s.awaitEven(t, time.Now(), 4) // nginx asks for the replicas' names once a second
	if err := s.checkEven(t, 400, 4, 0); err != nil {
		t.Error(err)
	}
	services := s.services(t)
	counts, err := tally("/info", 20)
	if err != nil {
		t.Error(err)
	}
	for id := range counts {
		if services[id] != "fork" {
			t.Errorf("/info was answered by %s", services[id])
		}
	}
}
