package main

import (
	"io"
	"net"
	"net/http"
	"time"

	"balanza/services/hosts"
	"balanza/services/metrics"
	"balanza/services/workers"
)

// listenMetrics listens where the settings say, before any server starts; nil: nowhere.
func (p *program) listenMetrics() (net.Listener, error) {
	if p.settings.MetricsAddress == "" {
		return nil, nil
	}
	ln, err := net.Listen("tcp", string(p.settings.MetricsAddress))
	if err != nil {
		return nil, errorf("--metrics: %w", err)
	}
	return ln, nil
}

// Limits of a client of the metrics.
const (
	metricsTimeout = 10 * time.Second // for a request and for its answer
	metricsIdle    = 2 * time.Minute  // longer than Prometheus waits between two scrapes
	metricsHeader  = 8 << 10
)

// serveMetrics answers /metrics for all servers of this process until stop is called.
func (p *program) serveMetrics(ln net.Listener, servers []*workers.Server) (stop func()) {
	host, _, _ := net.SplitHostPort(string(p.settings.MetricsAddress))
	names, _ := hosts.Parse(withHost(p.settings.ServerNames, host)) // loadSettings has checked them
	mux := http.NewServeMux()
	mux.HandleFunc("GET /metrics", func(w http.ResponseWriter, r *http.Request) {
		if !names.Allowed(r.Host) { // a page of another site that points its name at this machine
			http.Error(w, http.StatusText(http.StatusMisdirectedRequest), http.StatusMisdirectedRequest)
			return
		}
		w.Header().Set("Content-Type", metrics.ContentType)
		w.Header().Set("X-Content-Type-Options", "nosniff")
		_, _ = io.WriteString(w, workers.Metrics(servers)) // a client may leave
	})
	server := &http.Server{
		Handler: mux, MaxHeaderBytes: metricsHeader,
		ReadTimeout: metricsTimeout, WriteTimeout: metricsTimeout, IdleTimeout: metricsIdle,
	}
	go func() { _ = server.Serve(ln) }() // it ends when it is closed
	return func() { _ = server.Close() }
}
