package instance

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"slices"
	"strconv"
	"time"
)

// probes are the requests for ReadyPath and HealthPath. Each has a connection of its own, as a client that comes anew.
var probes = http.Client{
	Transport:     &http.Transport{DisableKeepAlives: true},
	Timeout:       probeTimeout,
	CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
}

// request returns the status of the program's answer to a GET.
func request(address, path string) (int, error) {
	ctx, cancel := context.WithTimeout(context.Background(), probeTimeout)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+address+path, nil)
	if err != nil {
		return 0, err
	}
	res, err := probes.Do(req)
	if err != nil {
		return 0, err
	}
	res.Body.Close()
	return res.StatusCode, nil
}

// health is an error while the program does not answer HealthPath with 2xx. While it reloads itself it need not answer.
func (i *instance) health(address string) error {
	if time.Now().UnixMilli() < i.reloading.Load() {
		return nil
	}
	status, err := request(address, i.HealthPath)
	if err == nil && status/100 != 2 {
		err = fmt.Errorf("%s answers %d", i.HealthPath, status)
	}
	return err
}

// readyCheck finds out whether a program is ready.
type readyCheck struct {
	*instance
	why      string    // it is not
	wrong    int       // a port that is open in place of its own; 0: none
	since    time.Time // when that was seen first
	told     bool
	lastScan time.Time
}

// ready returns the address at which the program listens, if it has a port of its own, and whether it is ready.
func (c *readyCheck) ready() (address string, ok bool) {
	if c.w.Port > 0 {
		if address, ok = c.listening(); !ok {
			return "", false
		}
	}
	if c.ReadyNotify && !c.notified {
		c.why = "it has not said READY=1 (sd_notify)"
		return "", false
	}
	if c.w.Port == 0 {
		c.why = "it has not lived for a second"
		return "", c.notified || time.Since(c.started) >= livedDelay
	}
	if c.ReadyPath != "" {
		status, err := request(address, c.ReadyPath)
		switch {
		case err != nil:
			c.why = err.Error()
			return "", false
		case status != http.StatusOK:
			c.why = fmt.Sprintf("%s answers %d", c.ReadyPath, status)
			return "", false
		}
	}
	return address, true
}

// listening finds out whether the program accepts connections on its port: on 127.0.0.1, or else on ::1.
func (c *readyCheck) listening() (address string, ok bool) {
	port := strconv.Itoa(c.w.Port)
	for _, host := range []string{"127.0.0.1", "::1"} {
		address := net.JoinHostPort(host, port)
		conn, err := net.DialTimeout("tcp", address, probeTimeout)
		if err != nil {
			continue
		}
		conn.Close()
		if !c.ownsPort(c.w.Port) {
			c.why = fmt.Sprintf("another process listens on its port, %s", port)
			return "", false
		}
		return address, true
	}
	c.findWrongPort()
	return "", false
}

// findWrongPort looks for ports that the program listens on in place of its own, and tells what to do about it.
func (c *readyCheck) findWrongPort() {
	if time.Since(c.lastScan) < wrongPortDelay/3 {
		return
	}
	c.lastScan = time.Now()
	open := c.openPorts()
	if len(open) == 0 {
		c.wrong, c.why = 0, fmt.Sprintf("it does not listen on $PORT, %d", c.w.Port)
		return
	}
	if !slices.Contains(open, c.wrong) {
		c.wrong, c.since = open[0], time.Now()
	}
	c.why = fmt.Sprintf("it listens on port %d and not on $PORT, %d: make it read PORT, or write '$PORT' where its argument names the port; "+
		"a program that must have a port of its own runs without --port", c.wrong, c.w.Port)
	if !c.told && time.Since(c.since) >= wrongPortDelay {
		c.told = true
		c.w.Warn(c.why)
	}
}
