package workers

import (
	"encoding/json"
	"fmt"
	"net"
	"os"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// series reads the text of a scrape.
func series(t *testing.T, text string) map[string]float64 {
	t.Helper()
	all := map[string]float64{}
	for line := range strings.Lines(text) {
		if strings.HasPrefix(line, "#") {
			continue
		}
		at := strings.LastIndexByte(line, ' ')
		value, err := strconv.ParseFloat(strings.TrimSpace(line[at+1:]), 64)
		if err != nil {
			t.Fatalf("%q: %v", line, err)
		}
		all[line[:at]] = value
	}
	return all
}

// scrape reads /metrics of any worker; nil: the worker was killed meanwhile.
func (r *running) scrape() map[string]float64 {
	r.t.Helper()
	text, _, err := request(r.url("/metrics"))
	if err != nil {
		return nil
	}
	return series(r.t, text)
}

// wantSeries fails the test for each series that is not as wanted; a negative value stands for none.
func wantSeries(t *testing.T, got map[string]float64, want map[string]float64) {
	t.Helper()
	for name, value := range want {
		if is, ok := got[name]; ok != (value >= 0) || ok && is != value {
			t.Errorf("%s is %v (%v), want %v", name, is, ok, value)
		}
	}
}

// One scrape has what each worker tells at that moment, their sum, and the master.
func TestScrape(t *testing.T) {
	t.Parallel()
	c := testConfig(t, 3)
	c.HeartbeatTimeout, c.Version = time.Hour, "1.2.3" // the numbers do not come from heartbeats
	r := start(t, c)
	for range 20 {
		get(t, r.url("/"))
	}
	got := r.scrape()
	wantSeries(t, got, map[string]float64{
		"answers_total": 21, "balanza_workers_configured": 3, "balanza_workers_online": 3, "balanza_workers_draining": 0,
		"balanza_server_up": 1, `balanza_worker_up{worker="3"}`: 1, `balanza_worker_restarts_total{worker="2"}`: 0,
		fmt.Sprintf(`balanza_build_info{worker="master",version="1.2.3",goversion=%q}`, runtime.Version()): 1,
	})
	for n, w := range r.online(3) {
		label := fmt.Sprintf(`{worker="%d"}`, n+1)
		wantSeries(t, got, map[string]float64{"worker_pid" + label: float64(w.Pid)})
		if got["process_resident_memory_bytes"+label] < 1<<20 || got["process_open_fds"+label] < 3 {
			t.Errorf("worker %d: %v", n+1, got)
		}
	}
	if got[`process_start_time_seconds{worker="master"}`] < 1e9 {
		t.Errorf("the master: %v", got)
	}

	r.killWorker(1)
	r.online(3)
	wantSeries(t, r.scrape(), map[string]float64{`balanza_worker_restarts_total{worker="2"}`: 1})

	wantSeries(t, series(t, Metrics([]*Server{r.Server})), map[string]float64{
		`balanza_server_up{server="test"}`: 1, `balanza_worker_up{server="test",worker="1"}`: 1, `answers_total`: -1,
	})
	if err := r.Order(t.Context(), "stop", 0); err != nil {
		t.Fatal(err)
	}
	if text := Metrics([]*Server{r.Server}); strings.Contains(text, `server="test"`) {
		t.Errorf("a server that has ended has series:\n%s", text)
	}
}

// A worker that does not report is left out; the scrape is there all the same.
func TestScrapeWithoutOne(t *testing.T) {
	t.Parallel()
	r := run(t, testConfig(t, 2))
	r.behave("no-report 2")
	r.online(2)
	got := r.scrape()
	wantSeries(t, got, map[string]float64{
		`balanza_worker_up{worker="1"}`: 1, `balanza_worker_up{worker="2"}`: 0, `worker_pid{worker="2"}`: -1,
	})
	if got[`process_resident_memory_bytes{worker="2"}`] == 0 {
		t.Errorf("its memory is not told: %v", got)
	}
}

// A stopped server that is kept has no workers in a scrape, and those of others are there.
func TestScrapeOfStoppedServer(t *testing.T) {
	t.Parallel()
	c := testConfig(t, 1)
	c.KeepStopped = true
	stopped := start(t, c)
	second := testConfig(t, 1)
	second.Name = "other"
	other := start(t, second)
	if err := stopped.Order(t.Context(), "stop", 0); err != nil {
		t.Fatal(err)
	}
	wantSeries(t, series(t, Metrics([]*Server{stopped.Server, other.Server})), map[string]float64{
		`balanza_server_up{server="test"}`: 0, `balanza_workers_configured{server="test"}`: 0,
		`balanza_worker_up{server="test",worker="1"}`: -1, `balanza_worker_up{server="other",worker="1"}`: 1,
	})
}

// Counters never fall when workers exit. They lack only what killed workers had counted since their last heartbeat.
func TestTotalsNeverFall(t *testing.T) {
	t.Parallel()
	r := start(t, testConfig(t, 3))
	l := startLoad(t, r.Port(), 4)
	last, scrapes := 0.0, 0
	for i := 0; scrapes < 100; i++ {
		switch i % 10 {
		case 3:
			signalProcess(t, r.online(3)[i%3].Pid, syscall.SIGKILL)
		case 6:
			if err := r.Reload(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
		all := r.scrape()
		if all == nil {
			continue
		}
		scrapes++
		now, ok := all["answers_total"]
		if !ok || now < last {
			t.Fatalf("scrape %d: %v after %v", scrapes, now, last)
		}
		last = now
	}
	r.online(3)
	answers := r.scrape()["answers_total"]
	l.AwaitResponses(t, 100)
	if err := r.Reload(t.Context()); err != nil { // the old workers report their last counts
		t.Fatal(err)
	}
	l.Stop()
	if now := r.scrape()["answers_total"]; now < answers+100 {
		t.Errorf("100 answers later %v became %v", answers, now)
	}
}

// A worker whose master is of an older build shows the sums that this sends, and what is its own.
func TestScrapeOfOlderMaster(t *testing.T) {
	var w *Worker
	w = newWorker(2, 1, nil, func(m message) error {
		sent, _ := json.Marshal(m)
		var old struct { // the messages as they were
			Ask *struct {
				Counters map[string]float64 `json:"counters"`
			} `json:"ask"`
		}
		if err := json.Unmarshal(sent, &old); err != nil || old.Ask == nil {
			t.Errorf("%s: %v", sent, err)
		}
		var answer message
		_ = json.Unmarshal([]byte(`{"totals":{"counters":{"answers_total":7,"requests_of_old_workers":1}}}`), &answer)
		w.handle(answer, nil)
		return nil
	})
	w.Report = func() (r Report) {
		r.Totals.Set(answersFamily, 3)
		r.Own.Set(slotFamily, 5)
		return r
	}
	text, err := w.Scrape()
	if err != nil {
		t.Fatal(err)
	}
	wantSeries(t, series(t, text), map[string]float64{
		"answers_total": 7, `worker_pid{worker="2"}`: 5, "requests_of_old_workers": -1,
	})
}

// A worker of an older build asks with its counters, and gets the sums; one that knows no samples is not waited for
// longer than scrapeTimeout.
func TestScrapeOfOlderWorker(t *testing.T) {
	s, err := NewServer(testConfig(t, 1))
	if err != nil {
		t.Fatal(err)
	}
	defer s.socket.Close()
	s.retired = map[string]float64{"answers_total": 5}
	mine, theirs := net.Pipe()
	defer theirs.Close()
	p := &process{conn: &conn{Conn: mine}, ready: true}
	s.processes[p] = true
	var e event
	if err := json.Unmarshal([]byte(`{"ask":{"counters":{"answers_total":2}}}`), &e.message); err != nil {
		t.Fatal(err)
	}
	e.process = p
	s.handleEvent(e)
	line := make([]byte, 1<<10)
	n, err := theirs.Read(line)
	if got := strings.TrimSpace(string(line[:n])); err != nil || got != `{"totals":{"counters":{"answers_total":7}}}` {
		t.Errorf("%s, %v", got, err)
	}
	ended := false
	s.addScrape(func(serverMetrics) { ended = true })
	if ended {
		t.Error("the scrape did not wait")
	}
	<-s.scrapeDeadline
	s.endScrape()
	if !ended {
		t.Error("the scrape has not ended")
	}
}

// A message that a reader takes only in part is completed before the next one, and none is broken.
func TestMessagesStayWhole(t *testing.T) {
	a, file, err := newConnPair()
	if err != nil {
		t.Fatal(err)
	}
	b, err := openConn(file)
	if err != nil {
		t.Fatal(err)
	}
	defer a.close()
	defer b.close()
	long := strings.Repeat("x", 2<<20) // more than the kernel takes
	if err := a.send(message{Totals: &totals{Text: long}}); !os.IsTimeout(err) {
		t.Fatalf("nobody reads: %v", err)
	}
	if err := a.send(message{Draining: true}); err == nil {
		t.Error("a second message was sent before the first")
	}
	got := make(chan message, 2)
	go func() {
		for range 2 {
			m, err := b.receive()
			if err != nil {
				t.Error(err)
			}
			got <- m
		}
	}()
	eventually(t, "the next message", func() error { return a.send(message{Ready: true}) })
	if m := <-got; m.Totals == nil || m.Totals.Text != long {
		t.Error("the first message is not whole")
	}
	if m := <-got; !m.Ready {
		t.Errorf("%+v", m)
	}
}
