package workers

import (
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"testing"
	"time"

	"balanza/e2e/load"
)

// loadConfig is a load of GET requests, and of POST requests with 1,000 bytes, on the test program.
func loadConfig(port, clients int) load.Config {
	return load.Config{
		Address: fmt.Sprintf("127.0.0.1:%d", port), Clients: clients, Requests: []string{"GET /", "POST /"},
		Body: strings.Repeat("x", 1000), Interval: time.Millisecond, Timeout: waitLimit, Check: checkResponse,
	}
}

func startLoad(t *testing.T, port, clients int) *load.Load {
	t.Helper()
	return load.Start(t, loadConfig(port, clients))
}

// checkResponse accepts what site.ServeHTTP writes.
func checkResponse(response *http.Response) error {
	if response.StatusCode != http.StatusOK {
		return errors.New(response.Status)
	}
	_, err := strconv.Atoi(response.Header.Get("X-Pid"))
	return err
}
