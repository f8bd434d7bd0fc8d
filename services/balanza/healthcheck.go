package main

import (
	"context"
	"io"
	"net/http"
	"time"

	"github.com/spf13/cobra"
)

// healthcheckTimeout is shorter than that of the image's HEALTHCHECK, so that the cause is in its output.
const healthcheckTimeout = 3 * time.Second

// healthcheck asks the server of the configured host and port whether it is ready: the image needs no curl for that.
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
	return nil
}
