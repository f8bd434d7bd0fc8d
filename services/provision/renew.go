package provision

import (
	"context"
	"log/slog"
	"time"
)

// renewInterval is how often the service certificates looks for a renewed pair.
const renewInterval = 10 * time.Second

// Renew keeps the certificate in dir, which Run has filled, until ctx ends: a supplied pair is installed within seconds of
// its renewal, and a self-signed one is made again before it expires. nginx learns of it by the version. What is wrong with
// a supplied pair is in the log once, for as long as it lasts, and the pair in dir stays.
func Renew(ctx context.Context, dir string, settings Settings) {
	tick := time.NewTicker(renewInterval)
	defer tick.Stop()
	var last, logged report
	for {
		found := renew(dir, settings, time.Now())
		// A report must hold for two looks: a renewal replaces its files one by one, and they don't match meanwhile.
		if found == last && found != logged {
			found.log()
			logged = found
		}
		last = found
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

// renew is one look of Renew.
func renew(dir string, settings Settings, now time.Time) report {
	p, err := func() (*pair, error) {
		unlock, err := lock(dir)
		if err != nil {
			return nil, err
		}
		defer unlock()
		p, err := keepCertificate(dir, settings.Supplied, nil, now)
		if err != nil {
			return nil, err
		}
		return p, writeVersion(dir, settings.Nginx)
	}()
	if err != nil {
		return report{slog.LevelError, err.Error()}
	}
	return p.report(now)
}

// CheckCertificate returns what is wrong with the supplied pair, or else with the one in dir.
func CheckCertificate(dir string, settings Settings) error {
	p, err := settings.Supplied.read()
	if err == nil && p == nil {
		p, err = readPair(dir, certificateFile, keyFile)
	}
	if err != nil {
		return err
	}
	return p.invalid(time.Now())
}

// report is what the log says of a certificate. The zero value stands for a valid one.
type report struct {
	level slog.Level
	text  string
}

// log writes the report.
func (r report) log() {
	if r.text == "" {
		r.text = "certificate: valid again"
	}
	slog.Log(context.Background(), r.level, r.text)
}
