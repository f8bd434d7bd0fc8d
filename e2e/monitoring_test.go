package e2e

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"balanza/e2e/testenv"
)

const (
	prometheusImage   = "prom/prometheus:v3.5.3"
	composePrometheus = "http://127.0.0.1:29090" // PROMETHEUS_PORT of the tests
	// edgeRow is the part of the dashboard that has data only where the edge is, which nginx replaces in Compose.
	edgeRow = "The edge of balanza up"
)

// promtool runs Prometheus' own checks, in its folder of services/monitoring.
func promtool(t *testing.T, input string, args ...string) {
	t.Helper()
	needDocker(t)
	dir, err := filepath.Abs("../services/monitoring/prometheus")
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("docker", append([]string{"run", "--rm", "-i", "-v", dir + ":/rules:ro", "-w", "/rules",
		"--entrypoint", "promtool", prometheusImage}, args...)...)
	cmd.Stdin = strings.NewReader(input)
	if out, err := cmd.CombinedOutput(); err != nil || args[1] == "metrics" && len(out) > 0 {
		t.Errorf("promtool %v: %v\n%s", args, err, tail(string(out), 3000))
	}
}

// The configuration and the rules are valid, and each alert has a case in which it fires and one in which it does not.
func TestMonitoringRules(t *testing.T) {
	parallelStack(t)
	promtool(t, "", "check", "config", "prometheus.yml")
	promtool(t, "", "check", "rules", "--lint=all", "--lint-fatal", "rules.yml", "alerts.yml")
	promtool(t, "", "test", "rules", "alerts_test.yml")

	read := func(name string) string {
		content, err := os.ReadFile(filepath.Join("../services/monitoring/prometheus", name))
		if err != nil {
			t.Fatal(err)
		}
		return string(content)
	}
	cases := read("alerts_test.yml")
	alerts := regexp.MustCompile(`alert: (\w+)`).FindAllStringSubmatch(read("alerts.yml"), -1)
	if len(alerts) < 10 {
		t.Errorf("%d alerts", len(alerts))
	}
	for _, alert := range alerts {
		if !regexp.MustCompile(`eval_time: \w+, alertname: ` + alert[1] + `\}`).MatchString(cases) {
			t.Errorf("no case in which %s does not fire", alert[1])
		}
		if !regexp.MustCompile(`alertname: ` + alert[1] + `\n\s+exp_alerts:\n\s+- exp_labels`).MatchString(cases) {
			t.Errorf("no case in which %s fires", alert[1])
		}
	}
}

// sample is one series of an answer of Prometheus, at one moment.
type sample struct {
	Metric map[string]string
	Value  [2]any // Unix time, number as text
}

// number is the sample's value.
func (s sample) number() float64 {
	text, _ := s.Value[1].(string)
	value, _ := strconv.ParseFloat(text, 64)
	return value
}

// prometheus is the address of a running Prometheus.
type prometheus string

// get reads an answer of its API.
func (p prometheus) get(path string, into any, query ...string) error {
	values := url.Values{}
	for i := 0; i < len(query); i += 2 {
		values.Add(query[i], query[i+1])
	}
	answer, err := ask(http.MethodGet, string(p)+"/api/v1/"+path+"?"+values.Encode(), "")
	if err != nil {
		return err
	}
	data := struct {
		Status, Error string
		Data          any
	}{Data: into}
	if err := json.Unmarshal([]byte(answer.body), &data); err != nil {
		return fmt.Errorf("%s: %w", answer.body, err)
	}
	if data.Status != "success" {
		return fmt.Errorf("%s: %s", path, data.Error)
	}
	return nil
}

// query evaluates an expression now.
func (p prometheus) query(expr string) ([]sample, error) {
	var data struct {
		ResultType string
		Result     []sample
	}
	err := p.get("query", &data, "query", expr)
	return data.Result, err
}

// target is what Prometheus knows of one it scrapes.
type target struct {
	Labels    map[string]string
	Health    string
	LastError string
}

// awaitTargets waits until the job balanza has so many targets of each server, all up.
func (p prometheus) awaitTargets(t *testing.T, want map[string]int) {
	t.Helper()
	eventually(t, "the targets", func() error {
		var data struct{ ActiveTargets []target }
		if err := p.get("targets", &data, "state", "active"); err != nil {
			return err
		}
		got := map[string]int{}
		for _, target := range data.ActiveTargets {
			if target.Health != "up" {
				return fmt.Errorf("%v is %s: %s", target.Labels, target.Health, target.LastError)
			}
			if target.Labels["job"] == "balanza" {
				got[target.Labels["server"]]++
			}
		}
		if !maps.Equal(got, want) {
			return fmt.Errorf("targets %v, want %v", got, want)
		}
		return nil
	})
}

// awaitAlert waits until an alert of a server is firing or pending, or, with no state, until it is neither.
func (p prometheus) awaitAlert(t *testing.T, name, server, state string) {
	t.Helper()
	eventually(t, name+" "+state, func() error {
		var data struct {
			Alerts []struct {
				Labels map[string]string
				State  string
			}
		}
		if err := p.get("alerts", &data); err != nil {
			return err
		}
		is := ""
		for _, a := range data.Alerts {
			if a.Labels["alertname"] == name && a.Labels["server"] == server {
				is = a.State
			}
		}
		if is != state {
			return fmt.Errorf("%s of %s is %q", name, server, is)
		}
		return nil
	})
}

// checkRules waits until every rule has been evaluated, and fails the test for each that cannot be.
func (p prometheus) checkRules(t *testing.T) {
	t.Helper()
	eventually(t, "the rules", func() error {
		var data struct {
			Groups []struct {
				Rules []struct{ Name, Health, LastError string }
			}
		}
		if err := p.get("rules", &data); err != nil {
			return err
		}
		n := 0
		for _, group := range data.Groups {
			for _, rule := range group.Rules {
				if n++; rule.Health != "ok" {
					return fmt.Errorf("%s is %s: %s", rule.Name, rule.Health, rule.LastError)
				}
			}
		}
		if n < 15 {
			return fmt.Errorf("%d rules", n)
		}
		return nil
	})
}

// dashboard is what Grafana's dashboard asks Prometheus for.
type dashboard struct {
	Templating struct {
		List []struct{ Name, Type, Definition string }
	}
	Annotations struct{ List []struct{ Name, Expr string } }
	Panels      []struct {
		Title, Type string
		Targets     []struct{ Expr string }
	}
}

// labelValues is how Grafana's variables ask for the values of a label.
var labelValues = regexp.MustCompile(`^label_values\((.+), (\w+)\)$`)

// variables resolves the dashboard's variables as Grafana does with "All" chosen: several values become a group of
// alternatives, and a rate covers four scrapes.
func (d dashboard) variables(p prometheus) (*strings.Replacer, error) {
	pairs := []string{"$__rate_interval", "20s"}
	for _, v := range d.Templating.List {
		if v.Type != "query" {
			continue
		}
		parts := labelValues.FindStringSubmatch(v.Definition)
		if parts == nil {
			return nil, fmt.Errorf("variable %s: %q", v.Name, v.Definition)
		}
		var values []string
		if err := p.get("label/"+parts[2]+"/values", &values, "match[]", strings.NewReplacer(pairs...).Replace(parts[1])); err != nil {
			return nil, err
		}
		if len(values) == 0 {
			return nil, fmt.Errorf("variable %s has no values", v.Name)
		}
		for i := range values {
			values[i] = regexp.QuoteMeta(values[i])
		}
		text := values[0]
		if len(values) > 1 {
			text = "(" + strings.Join(values, "|") + ")"
		}
		pairs = append(pairs, "$"+v.Name, text)
	}
	return strings.NewReplacer(pairs...), nil
}

// checkDashboard waits until every query of the dashboard has data. Those of the rows named are only evaluated.
func (p prometheus) checkDashboard(t *testing.T, withoutData ...string) {
	t.Helper()
	content, err := os.ReadFile("../services/monitoring/grafana/dashboards/balanza.json")
	if err != nil {
		t.Fatal(err)
	}
	var d dashboard
	if err := json.Unmarshal(content, &d); err != nil {
		t.Fatal(err)
	}
	queries := 0
	eventually(t, "data for the dashboard", func() error {
		resolve, err := d.variables(p)
		if err != nil {
			return err
		}
		queries = 0
		row := ""
		for _, panel := range d.Panels {
			if panel.Type == "row" {
				row = panel.Title
			}
			for _, target := range panel.Targets {
				queries++
				expr := resolve.Replace(target.Expr)
				result, err := p.query(expr)
				if err != nil {
					t.Fatalf("%s: %s: %v", panel.Title, expr, err)
				}
				if len(result) == 0 && !slices.Contains(withoutData, row) {
					return fmt.Errorf("%s: no data for %s", panel.Title, expr)
				}
			}
		}
		return nil
	})
	if queries < 30 {
		t.Errorf("%d queries", queries)
	}
	for _, a := range d.Annotations.List {
		if _, err := p.query(a.Expr); err != nil {
			t.Errorf("annotation %s: %v", a.Name, err)
		}
	}
}

// counterNames matches the series that may only grow.
var counterNames = regexp.MustCompile(`^\w+_(total|bucket|sum|count)\b`)

// serverTotals are the counters of whole servers in a scrape: those without a worker, whose own ones begin anew with it.
func serverTotals(t *testing.T, text string) map[string]float64 {
	t.Helper()
	all := map[string]float64{}
	for line := range strings.Lines(text) {
		at := strings.LastIndexByte(line, ' ')
		if strings.HasPrefix(line, "#") || strings.Contains(line, `worker="`) || !counterNames.MatchString(line) {
			continue
		}
		value, err := strconv.ParseFloat(strings.TrimSpace(line[at+1:]), 64)
		if err != nil {
			t.Fatalf("%q: %v", line, err)
		}
		all[line[:at]] = value
	}
	return all
}

// One scrape of `up --metrics` has all servers with all workers, and its totals never fall, whatever is killed and
// reloaded. Prometheus itself evaluates every rule and every query of the dashboard on it.
func TestMetricsOfUp(t *testing.T) {
	parallelStack(t)
	needDocker(t)
	address := "127.0.0.1:" + testenv.FreePort(t)
	f := up(t, "BALANZA_METRICS_ADDRESS="+address)
	scrape := func() string {
		t.Helper()
		answer, err := ask(http.MethodGet, "http://"+address+"/metrics", "")
		if err != nil || answer.StatusCode != http.StatusOK {
			t.Fatalf("%v %v", answer.StatusCode, err)
		}
		return answer.body
	}
	promtool(t, scrape(), "check", "metrics")
	for _, name := range []string{"fork", "cluster"} {
		answer, err := ask(http.MethodGet, "http://"+f.address(name)+"/metrics", "")
		if err != nil {
			t.Fatal(err)
		}
		promtool(t, answer.body, "check", "metrics")
	}
	if answer, err := ask(http.MethodGet, "http://"+address+"/metrics", "", "Host: attacker.example"); err != nil || answer.StatusCode != 421 {
		t.Errorf("an unknown host: %v %v", answer.StatusCode, err)
	}
	if answer, err := ask(http.MethodGet, "http://"+address+"/info", ""); err != nil || answer.StatusCode != 404 {
		t.Errorf("another path: %v %v", answer.StatusCode, err)
	}

	prom := prometheusOn(t, address)
	l := startLoad(t, f.address("edge"), 2, "GET /info", "GET /api/randoms?cant=1000")
	prom.awaitTargets(t, map[string]int{"": 1})
	prom.checkRules(t)
	prom.checkDashboard(t)

	before := map[string]float64{}
	check := func(when string) string {
		t.Helper()
		text := scrape()
		now := serverTotals(t, text)
		for series, was := range before {
			if is, ok := now[series]; !ok || is < was {
				t.Errorf("%s: %s was %v and is %v", when, series, was, is)
			}
		}
		before = now
		return text
	}
	for i := range 3 {
		for _, name := range []string{"fork", "cluster", "edge"} {
			sendSignal(t, f.ps()[name].Workers[0].Pid, syscall.SIGKILL)
			check("after a kill of " + name)
			f.awaitRestarts(name, i+1)
			check("after its restart")
		}
		f.mustRun("reload", "all")
		check("after a reload")
	}
	l.AwaitResponses(t, 100)
	l.Stop()
	f.awaitOnline(fleetSize)
	text := check("at the end")
	promtool(t, text, "check", "metrics")
	for _, series := range []string{
		`balanza_worker_up{server="fork",worker="1"} 1`, `balanza_worker_up{server="cluster",worker="1"} 1`,
		`balanza_worker_up{server="cluster",worker="2"} 1`, `balanza_worker_up{server="edge",worker="1"} 1`,
		`balanza_worker_restarts_total{server="cluster",worker="1"} 3`, `balanza_workers_online{server="cluster"} 2`,
		`balanza_edge_upstream_up{server="edge",worker="1",upstream="` + f.address("cluster") + `",role="primary"} 1`,
	} {
		if !strings.Contains(text, series+"\n") {
			t.Errorf("no %s in\n%s", series, tail(text, 4000))
		}
	}

	if !regexp.MustCompile(`(?m)^balanza_edge_requests_total\{server="edge",code="2xx"\} \d{3,}$`).MatchString(text) {
		t.Errorf("the edge has not counted its requests:\n%s", tail(text, 4000))
	}

	f.mustRun("stop", "cluster")
	if text := check("of a stopped server"); !strings.Contains(text, `balanza_server_up{server="cluster"} 0`) ||
		strings.Contains(text, `{server="cluster",worker=`) {
		t.Errorf("a stopped server:\n%s", tail(text, 4000))
	}
	prom.awaitAlert(t, "BalanzaNoUpstream", "edge", "firing")
	f.mustRun("start", "cluster")
	prom.awaitAlert(t, "BalanzaNoUpstream", "edge", "")
}

// prometheusOn runs Prometheus on this machine's network with the rules of services/monitoring, for one address.
func prometheusOn(t *testing.T, address string) prometheus {
	t.Helper()
	dir := t.TempDir()
	if err := os.CopyFS(dir, os.DirFS("../services/monitoring/prometheus")); err != nil {
		t.Fatal(err)
	}
	config := fmt.Sprintf("global: {scrape_interval: 5s, evaluation_interval: 5s}\nrule_files: [rules.yml, alerts.yml]\n"+
		"scrape_configs: [{job_name: balanza, static_configs: [{targets: [%q]}]}]\n", address)
	if err := os.WriteFile(filepath.Join(dir, "prometheus.yml"), []byte(config), 0o644); err != nil {
		t.Fatal(err)
	}
	for d := dir; d != os.TempDir() && d != "/"; d = filepath.Dir(d) { // Prometheus has a user of its own
		if err := os.Chmod(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	port := testenv.FreePort(t)
	name := "balanza-prometheus-" + port
	out, err := exec.Command("docker", "run", "--detach", "--rm", "--network", "host", "--name", name, "-v", dir+":/etc/prometheus:ro",
		prometheusImage, "--config.file=/etc/prometheus/prometheus.yml", "--storage.tsdb.path=/prometheus",
		"--web.listen-address=127.0.0.1:"+port).CombinedOutput()
	if err != nil {
		t.Fatalf("docker run: %v %s", err, out)
	}
	t.Cleanup(func() {
		if t.Failed() {
			logs, _ := exec.Command("docker", "logs", name).CombinedOutput()
			t.Logf("log of Prometheus:\n%s", tail(string(bytes.TrimSpace(logs)), 2000))
		}
		_ = exec.Command("docker", "rm", "--force", "--volumes", name).Run()
	})
	return prometheus("http://127.0.0.1:" + port)
}

// --metrics also serves a single server, FORK in its own process among them; a port that is taken is an error.
func TestMetricsOfOneServer(t *testing.T) {
	eachMode(t, func(t *testing.T, args ...string) {
		address := "127.0.0.1:" + testenv.FreePort(t)
		s := serve(t, t.TempDir(), append(args, "--name", "one", "--metrics", address)...)
		eventually(t, "the first worker is up", func() error { // with two, the second one may be there before it
			answer, err := ask(http.MethodGet, s.url+"/metrics", "")
			if err == nil && !strings.Contains(answer.body, `balanza_worker_up{worker="1"} 1`) {
				err = errors.New("it is not")
			}
			return err
		})
		for _, url := range []string{"http://" + address, s.url} {
			answer, err := ask(http.MethodGet, url+"/metrics", "")
			if err != nil || answer.StatusCode != http.StatusOK {
				t.Fatalf("%v %v", answer.StatusCode, err)
			}
			label := ""
			if url != s.url {
				label = `server="one",`
			}
			for _, series := range []string{
				"balanza_worker_up{" + label + `worker="1"} 1`, "go_goroutines{" + label + `worker="1"} `,
				"process_resident_memory_bytes{" + label + `worker="1"} `,
				"balanza_http_requests_total{" + label + `method="GET",route="/readyz",code="2xx"} `,
			} {
				if strings.Count(answer.body, series) != 1 {
					t.Errorf("%d times %s", strings.Count(answer.body, series), series)
				}
			}
		}
		other := s.balanza("--p", "0", "--host", "127.0.0.1", "--name", "other", "--metrics", address)
		if out, err := other.CombinedOutput(); err == nil || strings.Count(string(out), "balanza: --metrics: listen tcp "+address) != 1 {
			t.Errorf("a second one on the address: %v %s", err, out)
		}
	})
}

// testMonitoring starts Prometheus beside the stack: it finds all containers, and every rule and query has data.
func testMonitoring(t *testing.T, s *stack, want map[string]int) {
	s.compose(t, "up", "--detach", "--wait", "--no-deps", "prometheus")
	prom := prometheus(composePrometheus)
	prom.awaitTargets(t, want)
	prom.checkRules(t)
	underLoad(t, "monitoring", func() { prom.checkDashboard(t, edgeRow) }, "/info", randomsPath)
	var total float64
	result, err := prom.query("sum(balanza_workers_online)")
	if err == nil && len(result) == 1 {
		total = result[0].number()
	}
	if total < float64(len(want)) {
		t.Errorf("%v workers online: %v %v", total, result, err)
	}
}

// testMonitoringFaults hangs one replica and kills another: an alert fires, and the killed one leaves the list.
func testMonitoringFaults(t *testing.T, s *stack) {
	prom := prometheus(composePrometheus)
	replicas := s.containers(t, "replica")
	s.docker(t, "pause", replicas[0])
	prom.awaitAlert(t, "BalanzaInstanceDown", "replica", "firing")
	s.docker(t, "unpause", replicas[0])
	prom.awaitAlert(t, "BalanzaInstanceDown", "replica", "")
	s.docker(t, "kill", replicas[1])
	prom.awaitTargets(t, map[string]int{"fork": 1, "cluster": 1, "replica": 3})
	prom.awaitAlert(t, "BalanzaInstancesGone", "replica", "pending")
	began := time.Now()
	s.docker(t, "start", replicas[1])
	s.waitHealthy(t)
	prom.awaitTargets(t, map[string]int{"fork": 1, "cluster": 1, "replica": 4})
	prom.awaitAlert(t, "BalanzaInstancesGone", "replica", "")
	t.Logf("a replica is scraped again %v after its start", time.Since(began).Round(time.Second))
}

// stopMonitoring removes Prometheus, so that the other tests find the services of the profile cluster alone.
func stopMonitoring(t *testing.T, s *stack) {
	s.compose(t, "rm", "--stop", "--force", "--volumes", "prometheus")
}
