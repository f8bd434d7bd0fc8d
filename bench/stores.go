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

const mongoImage = "mongo:8.0"

// place is where a section keeps its data, on one of the two stores.
type place struct {
	store   string // SQLite or MongoDB
	setting string // Balanza's environment variable that names it
	where   string // folder, or URI
}

// open gives this process an end of the store.
func (p place) open(ctx context.Context) (store.Store, error) {
	if p.store == "MongoDB" {
		return mongostore.Open(ctx, p.where)
	}
	return sqlitestore.Open(ctx, filepath.Join(p.where, "balanza.db"))
}

// env are the words before a command whose server keeps its data there.
func (p place) env() []string { return []string{"env", p.setting + "=" + p.where} }

func (b *bench) sqlite(section string) place {
	return place{"SQLite", "BALANZA_DATA", filepath.Join(b.temp, section)}
}

// places are an empty one on each store. Without MongoDB there is only one, and it says so.
func (b *bench) places(ctx context.Context, section string) ([]place, error) {
	places := []place{b.sqlite(section)}
	uri, err := b.mongoDB(ctx)
	if missing, ok := errors.AsType[missingError](err); ok {
		fmt.Println("on MongoDB: NOT MEASURED:", missing.what)
		return places, nil
	}
	return append(places, place{"MongoDB", "MONGODB_URI", uri + "/" + section}), err
}

// missingError: a part that only some figures need is not on this machine.
type missingError struct{ what string }

func (e missingError) Error() string { return e.what }

// mongoDB is the URI of a server in a container, which is started for the first that asks. It has no database's name.
func (b *bench) mongoDB(ctx context.Context) (string, error) {
	if b.mongo != "" {
		return b.mongo, nil
	}
	if out, err := exec.CommandContext(ctx, "docker", "image", "inspect", mongoImage).CombinedOutput(); err != nil {
		return "", missingError{fmt.Sprintf("docker image inspect %s: %v: %s", mongoImage, err, strings.TrimSpace(string(out)))}
	}
	free, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	address := free.Addr().String()
	if err := free.Close(); err != nil {
		return "", err
	}
	name := "balanza-bench-" + address[strings.LastIndexByte(address, ':')+1:]
	b.atEnd(func() { _ = exec.Command("docker", "rm", "--force", "--volumes", name).Run() }) // it may not have come to be
	if err := tool(ctx, "", "docker", "run", "--detach", "--name", name, "--publish", address+":27017", mongoImage); err != nil {
		return "", err
	}
	uri := "mongodb://" + address
	return uri, b.answers(ctx, uri)
}

// answers waits for the MongoDB server of that URI and keeps it.
func (b *bench) answers(ctx context.Context, uri string) error {
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
			b.mongo = uri
			return nil
		}
		if ctx.Err() != nil {
			return fmt.Errorf("%s does not answer: %w", mongoImage, err)
		}
		time.Sleep(100 * time.Millisecond)
	}
}
