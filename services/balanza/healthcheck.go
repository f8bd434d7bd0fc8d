package main

import (
	"context"
	"io"
	"net/http"
	"slices"
	"time"

	"github.com/spf13/cobra"

	"balanza/services/workers/control"
)

// healthcheckTimeout is shorter than that of the image's HEALTHCHECK, so that the cause is in its output.
const healthcheckTimeout = 3 * time.Second

// healthcheck asks the server of the configured host and port whether it is ready: the image needs no curl for that. A master
// that does not answer fails it, although its workers serve on, since it replaces none of them any more.
func (p *program) healthcheck() *cobra.Command {
	c := p.interruptible("healthcheck [--p PORT] [--host ADDRESS]", "exit with status 0 when the server on the port is ready", p.checkHealth)
	p.settings.portFlag(c.Flags())
	p.settings.hostFlag(c.Flags())
	return c
}

// checkHealth fails with what the server answers, which docker inspect shows then.
func (p *program) checkHealth(ctx context.Context, _ []string) error {
	ctx, cancel := context.WithTimeout(ctx, healthcheckTimeout)
	defer cancel()
	address := siteURL(p.settings.Host, int(p.settings.Port))
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, address+"/readyz", nil)
	if err != nil {
		return err
	}
	response, err := directClient.Do(request)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusOK {
		body, _ := io.ReadAll(io.LimitReader(response.Body, 200))
		return errorf("%s answers %s: %s", address, response.Status, body)
	}
	all, err := p.list(ctx)
	if err != nil || slices.ContainsFunc(all, func(st control.Status) bool { return st.Port == int(p.settings.Port) }) {
		return err
	}
	for _, st := range all {
		if st.Status == "unresponsive" { // its port is not known then
			return errorf("%s is served, but the master of %s (pid %d) does not answer", address, st.Name, st.Pid)
		}
	}
	return nil
}
