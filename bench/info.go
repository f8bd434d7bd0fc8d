package main

import (
	"context"
	"fmt"
	"os/exec"
	"regexp"
	"strconv"
	"strings"
)

// info loads both servers in turn with wrk.
func info(ctx context.Context, b *bench) error {
	const rounds = 5
	for _, mode := range []string{"FORK", "CLUSTER"} {
		ours, err := b.startBalanza(ctx, nil, "--m", mode)
		if err != nil {
			return err
		}
		theirs, err := b.startPeer(ctx, "Express", nil, "--mode", mode)
		if err != nil {
			ours.stop()
			return err
		}
		c := comparison{what: "/info in " + mode, unit: "requests/s", peer: "Express", target: 10, more: true}
		for range rounds {
			var rate [2]float64
			for i, s := range []*server{ours, theirs} {
				if rate[i], err = wrk(ctx, s.url+"/info"); err != nil {
					break
				}
			}
			if err != nil {
				break
			}
			c.add(rate[0], rate[1])
		}
		ours.stop()
		theirs.stop()
		if err != nil {
			return err
		}
		c.print()
	}
	return nil
}

var wrkRate = regexp.MustCompile(`Requests/sec:\s+([0-9.]+)`)

// wrk returns the requests that url's server answers in a second. An answer other than 200 fails it.
func wrk(ctx context.Context, url string) (float64, error) {
	argv := []string{"wrk", "-t1", "-c32", "-d3s", "-H", "Accept: application/json", url}
	out, err := exec.CommandContext(ctx, argv[0], argv[1:]...).CombinedOutput()
	if err != nil {
		return 0, fmt.Errorf("%s: %w\n%s", strings.Join(argv, " "), err, out)
	}
	if strings.Contains(string(out), "Non-2xx") || strings.Contains(string(out), "Socket errors") {
		return 0, fmt.Errorf("%s: not every request was answered\n%s", strings.Join(argv, " "), out)
	}
	found := wrkRate.FindSubmatch(out)
	if found == nil {
		return 0, fmt.Errorf("%s: no rate\n%s", strings.Join(argv, " "), out)
	}
	return strconv.ParseFloat(string(found[1]), 64)
}
