package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// nginxConfig is that of one worker process with connections to the server that are kept. %[1]s is the port, %[2]s the
// server, %[3]s the access log, whose format has the length of nginx/monitor.conf's.
const nginxConfig = `worker_processes 1;
daemon off;
pid nginx-%[1]s.pid;
error_log stderr warn;
events { worker_connections 1024; }
http {
  log_format json escape=json '{"time":"$time_iso8601","request_id":"$request_id","client":"$remote_addr",'
    '"scheme":"$scheme","protocol":"$server_protocol","host":"$host","method":"$request_method","uri":"$request_uri",'
    '"status":$status,"bytes":$body_bytes_sent,"seconds":$request_time,'
    '"upstream":"$upstream_addr","upstream_status":"$upstream_status",'
    '"upstream_connect":"$upstream_connect_time","upstream_seconds":"$upstream_response_time",'
    '"server":"$upstream_http_x_balanza_server","referer":"$http_referer","agent":"$http_user_agent"}';
  access_log %[3]s;
  upstream server { server %[2]s; keepalive 64; }
  keepalive_requests 1000000000;
  server {
    listen 127.0.0.1:%[1]s;
    location / {
      proxy_pass http://server;
      proxy_http_version 1.1;
      proxy_set_header Connection "";
      proxy_set_header Host $host;
      proxy_set_header X-Request-Id $request_id;
      proxy_set_header X-Forwarded-For $remote_addr;
      proxy_set_header X-Forwarded-Proto $scheme;
    }
  }
}
`

// edge loads the edge and nginx by turns, both in front of the same server. The proxy has one half of the processors, and the
// server and wrk share the other one. The edge writes its access log; nginx is measured with and without one.
func edge(ctx context.Context, b *bench) error {
	for _, program := range []string{"nginx", "wrk"} {
		if _, err := exec.LookPath(program); err != nil {
			fmt.Printf("NOT MEASURED: %s is missing: install it with apt-get install %[1]s\n", program)
			return nil
		}
	}
	processors, err := allowedProcessors()
	if err != nil {
		return err
	}
	if len(processors) < 2 {
		return errors.New("edge needs a processor for the proxies and one for the server and the load")
	}
	half := len(processors) / 2
	forProxies, others := processors[:half], processors[half:2*half]
	site, err := b.startBalanza(ctx, taskset(others), "--m", "FORK")
	if err != nil {
		return err
	}
	defer site.stop()
	address := strings.TrimPrefix(site.url, "http://")

	ours, err := b.newServer("the edge", balanzaPid)
	if err != nil {
		return err
	}
	// Standard error alone gets the access log, as nginx's goes to one file.
	argv := append(taskset(forProxies), b.balanza, "edge", "--p", ours.port, "--primary", address, "--default", address)
	if err := ours.start(ctx, b.temp, append(b.environment(), "BALANZA_LOG_SIZE=0"), argv); err != nil {
		return err
	}
	defer ours.stop()
	theirs := make([]*server, 2)
	for i, name := range []string{"nginx with an access log", "nginx without"} {
		log := "off"
		if i == 0 {
			log = filepath.Join(b.temp, "access.log") + " json"
		}
		if theirs[i], err = b.startNginx(ctx, name, taskset(forProxies), address, log); err != nil {
			return err
		}
		defer theirs[i].stop()
	}
	for _, path := range []string{"/info", "/api/randoms?cant=1000"} {
		if err := compareProxies(ctx, path, ours, theirs, others); err != nil {
			return err
		}
	}
	return nil
}

// startNginx runs nginx on a free port in front of a server and waits until it answers.
func (b *bench) startNginx(ctx context.Context, name string, prefix []string, address, log string) (*server, error) {
	s, err := b.newServer(name, balanzaPid)
	if err != nil {
		return nil, err
	}
	config := filepath.Join(b.temp, "nginx-"+s.port+".conf")
	if err := os.WriteFile(config, fmt.Appendf(nil, nginxConfig, s.port, address, log), 0o600); err != nil {
		return nil, err
	}
	argv := append(append([]string{}, prefix...), "nginx", "-p", b.temp, "-c", config)
	return s, s.start(ctx, b.temp, os.Environ(), argv)
}

// compareProxies compares the edge with the others for the JSON of one path, by requests per second and by requests per
// second of the proxy's processor time.
func compareProxies(ctx context.Context, path string, ours *server, theirs []*server, forLoad []string) error {
	const rounds = 9
	comparisons := make([][2]comparison, len(theirs))
	for i, s := range theirs {
		for j, unit := range []string{"requests/s", "requests per CPU second"} {
			comparisons[i][j] = comparison{what: "the edge, " + path, unit: unit, peer: s.name, target: 0.7, higherIsBetter: true}
		}
	}
	for range rounds {
		mine, err := wrk(ctx, ours, path, "application/json", forLoad)
		if err != nil {
			return err
		}
		for i, s := range theirs {
			other, err := wrk(ctx, s, path, "application/json", forLoad)
			if err != nil {
				return err
			}
			comparisons[i][0].add(mine.rate, other.rate)
			comparisons[i][1].add(mine.requests/mine.cpuSeconds, other.requests/other.cpuSeconds)
		}
	}
	for _, c := range comparisons {
		c[0].print()
		c[1].print()
	}
	return nil
}
