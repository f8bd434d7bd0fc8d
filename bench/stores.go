package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"balanza/services/store"
	"balanza/services/store/mongostore"
	"balanza/services/store/sqlitestore"
)

// mongoImage is the image of docker-compose.yml.
const mongoImage = "mongo:8.0"

// storeConfig is an empty store for one section.
type storeConfig struct {
	name     string // SQLite or MongoDB
	variable string // the environment variable that tells Balanza the location
	location string // folder, or URI
}

// open opens the store in this process, beside the server that uses it.
func (c storeConfig) open(ctx context.Context) (store.Store, error) {
	if c.name == "MongoDB" {
		return mongostore.Open(ctx, c.location)
	}
	return sqlitestore.Open(ctx, filepath.Join(c.location, "balanza.db"))
}

// env is the prefix of a server's command that makes it use the store.
func (c storeConfig) env() []string { return []string{"env", c.variable + "=" + c.location} }

// sqlite returns an empty SQLite store in the temporary folder.
func (b *bench) sqlite(section string) storeConfig {
	return storeConfig{"SQLite", "BALANZA_DATA", filepath.Join(b.temp, section)}
}

// stores returns an empty store of each kind. Where MongoDB cannot be started it prints the reason and returns SQLite only.
func (b *bench) stores(ctx context.Context, section string) ([]storeConfig, error) {
	configs := []storeConfig{b.sqlite(section)}
	// One server serves all sections; each has a database of its own, so it finds it empty.
	uri, err := b.startMongoDB(ctx)
	if missing, ok := errors.AsType[missingError](err); ok {
		fmt.Println("on MongoDB: NOT MEASURED:", missing.what)
		return configs, nil
	}
	return append(configs, storeConfig{"MongoDB", "MONGODB_URI", uri + "/" + section}), err
}

// onEachStore calls measure with an empty store of each kind, one after the other.
func (b *bench) onEachStore(ctx context.Context, section string, measure func(storeConfig) error) error {
	configs, err := b.stores(ctx, section)
	if err != nil {
		return err
	}
	for _, c := range configs {
		if err := measure(c); err != nil {
			return err
		}
	}
	return nil
}

// missingError reports a part that this machine lacks and only some figures need.
type missingError struct{ what string }

// Error says what is missing.
func (e missingError) Error() string { return e.what }

// startMongoDB starts a server in a container at its first call, and returns its URI, without a database's name.
func (b *bench) startMongoDB(ctx context.Context) (string, error) {
	if b.mongo != "" {
		return b.mongo, nil
	}
	// The image is not pulled: a bench downloads nothing by itself.
	if out, err := exec.CommandContext(ctx, "docker", "image", "inspect", mongoImage).CombinedOutput(); err != nil {
		return "", missingError{fmt.Sprintf("docker image inspect %s: %v: %s", mongoImage, err, strings.TrimSpace(string(out)))}
	}
	address, _, err := freePort()
	if err != nil {
		return "", err
	}
	name := "balanza-bench-" + address[strings.LastIndexByte(address, ':')+1:]
	// Registered before the start, since a failed or interrupted `docker run` may leave a container too.
	b.atExit(func() { _ = exec.Command("docker", "rm", "--force", "--volumes", name).Run() })
	if err := tool(ctx, "", "docker", "run", "--detach", "--name", name, "--publish", address+":27017", mongoImage); err != nil {
		return "", err
	}
	uri := "mongodb://" + address
	if err := waitForMongoDB(ctx, uri); err != nil {
		return "", err
	}
	b.mongo = uri
	return uri, nil
}

// waitForMongoDB waits until the server of that URI answers, at most a minute.
func waitForMongoDB(ctx context.Context, uri string) error {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	s, err := mongostore.Open(ctx, uri)
	if err != nil {
		return err
	}
	defer func() { _ = s.Close() }()
	for {
		err := s.Ping(ctx)
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%s does not answer: %w", mongoImage, err)
		case <-time.After(100 * time.Millisecond):
		}
	}
}

// freePort returns an address of 127.0.0.1 that nothing listens on, and its port. Another program may take the port before
// the caller does; the section then fails.
func freePort() (address, port string, err error) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", "", err
	}
	address = ln.Addr().String()
	_, port, err = net.SplitHostPort(address)
	return address, port, errors.Join(err, ln.Close())
}
