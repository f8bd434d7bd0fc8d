package e2e

import (
	"bytes"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"balanza/e2e/testenv"
)

const (
	backupProject = composeProject + "-backup"
	backupFork    = "http://127.0.0.1:28780"
	backupReplica = "http://127.0.0.1:28782"
)

// TestComposeBackup runs the commands of docs/operations.md on a stack of mongo, fork and one replica: the backup, the restore,
// and the move to a MongoDB elsewhere. After each, a log-in, an account, a product and the chat go on.
func TestComposeBackup(t *testing.T) {
	if !testenv.All() {
		t.Skip("a minute with Docker: set BALANZA_TEST_ALL=1")
	}
	parallelStack(t)
	s := newStack(t)
	// COMPOSE_PROFILES: the page's commands start the replica as in a stack whose .env has the profile.
	s.env = append(s.env, "COMPOSE_PROJECT_NAME="+backupProject, "COMPOSE_PROFILES=cluster", "DRAIN_DELAY=1s",
		"FORK_PORT=28780", "REPLICA_PORTS=28782", "REPLICAS=1")
	image := imageWithTools(t)
	s.write(t, "docker-compose.override.yml", []byte(`services:
  mongo: {image: `+image+`}
  cluster: {profiles: [unused]}
  nginx: {profiles: [unused]}
  certificates: {profiles: [unused]}
`))
	s.removeAtEnd(t)
	s.compose(t, "up", "--detach", "--build", "--wait")

	ana := newUser(t, backupFork, "ana")
	createProduct := func(name string) {
		t.Helper()
		if err := ana.createProduct(backupFork, name); err != nil {
			t.Fatal("a product: ", err)
		}
	}
	createProduct("regla")
	said, last := 0, int64(0) // number of the last message, which is the log's last entry
	// say sends a message at a site. It fails the test unless the page shows all messages before, and the new one has the
	// log's next number.
	say := func(site string) {
		t.Helper()
		said++
		text := fmt.Sprint("mensaje ", said)
		p := openPage(t, ana, 0, site)
		p.send(text)
		p.awaitShown(t, said)
		p.mu.Lock()
		defer p.mu.Unlock()
		if n := p.acked[text]; last > 0 && n != last+1 {
			t.Errorf("%s: the message after number %d has number %d", site, last, n)
		}
		last = p.acked[text]
	}
	say(backupFork)
	// products waits until a site's server reaches its database, and returns the list.
	products := func(site string) (list string) {
		t.Helper()
		eventually(t, "products of "+site, func() error {
			answer, err := ask(http.MethodGet, site+"/api/productos", "")
			if err == nil && answer.StatusCode != http.StatusOK {
				err = fmt.Errorf("%s: %s", answer.Status, answer.body)
			}
			list = answer.body
			return err
		})
		return list
	}
	checkData := func() {
		t.Helper()
		for _, site := range []string{backupFork, backupReplica} {
			if list := products(site); !strings.Contains(list, `"regla"`) || strings.Contains(list, `"goma"`) {
				t.Errorf("products of %s: %s", site, list)
			}
			ana.wantHome(t, site)
			say(site)
		}
		login, err := ask(http.MethodPost, backupFork+"/login", fmt.Sprintf(`{"email": %q, "password": %q}`, ana.author.ID, password),
			"Content-Type: application/json", "Accept: application/json")
		if err != nil || login.StatusCode != http.StatusOK {
			t.Errorf("log-in: %v, %s %s", err, login.Status, login.body)
		}
	}

	blocks := commandsOf(t, "### Backup and restore")
	if len(blocks) != 2 {
		t.Fatalf("docs/operations.md has %d blocks of commands for backup and restore, want 2", len(blocks))
	}
	backup, restore := blocks[0], blocks[1]
	s.run(t, backup)
	file := filepath.Join(s.dir, "balanza-backup.tar.gz")
	if info, err := os.Stat(file); err != nil {
		t.Error(err)
	} else if info.Mode() != 0o600 {
		t.Errorf("the backup has mode %v, want 0600", info.Mode())
	}
	volumes := s.volumes(t)
	checkData() // the servers find MongoDB again by themselves
	said -= 2   // the restore takes these messages back
	last -= 2
	createProduct("goma")

	// A file that was cut short deletes nothing.
	content, running := readFile(t, file), s.state(t)
	s.write(t, filepath.Base(file), content[:len(content)/2])
	if out, err := s.sh(restore); err == nil || s.state(t) != running {
		t.Errorf("restore of half a file: %v, want an error and the same containers:\n%s", err, out)
	}
	s.write(t, filepath.Base(file), content)
	if out := s.run(t, restore); strings.Contains(out, "level=warning") {
		t.Errorf("a warning of the restore:\n%s", out)
	}
	checkData()
	if restored := s.volumes(t); restored != volumes {
		t.Errorf("the volumes after the restore:\n%s\nbefore:\n%s", restored, volumes)
	}

	blocks = commandsOf(t, "### Another MongoDB")
	if len(blocks) != 3 {
		t.Fatalf("docs/operations.md has %d blocks of commands for another MongoDB, want 3", len(blocks))
	}
	settings, dump, restore := blocks[0], blocks[1], strings.Replace(blocks[2], mongoImage, image, 1)
	uri := runMongodWithUser(t)
	s.run(t, dump)
	s.write(t, ".env", regexp.MustCompile(`(?m)^MONGODB_URI=.*$`).ReplaceAllLiteral([]byte(settings), []byte("MONGODB_URI="+uri)))
	s.run(t, restore)
	checkData()
	if left := s.compose(t, "ps", "--all", "--quiet", "mongo"); left != "" {
		t.Errorf("the local MongoDB still has a container: %s", left)
	}
	if out, err := s.sh(restore); err == nil || !strings.Contains(out, "duplicate key") {
		t.Errorf("a restore over data that is there: %v, want an error:\n%s", err, out)
	}
}

// commandsOf returns the blocks of commands in a section of docs/operations.md.
func commandsOf(t *testing.T, heading string) (blocks []string) {
	t.Helper()
	_, section, _ := strings.Cut(string(readFile(t, "../docs/operations.md")), "\n"+heading+"\n")
	section, _, _ = strings.Cut(section, "\n### ")
	for _, block := range regexp.MustCompile("(?s)\n```sh\n(.*?)```").FindAllStringSubmatch(section, -1) {
		blocks = append(blocks, block[1])
	}
	return blocks
}

// sh runs commands in the stack's folder until one fails, and returns what they print.
func (s *stack) sh(commands string) (string, error) {
	out, err := s.command("sh", "-euc", commands).CombinedOutput()
	return string(out), err
}

// run is sh, but fails the test on an error.
func (s *stack) run(t *testing.T, commands string) string {
	t.Helper()
	out, err := s.sh(commands)
	if err != nil {
		t.Fatalf("%s\n%v:\n%s", commands, err, tail(out, 3000))
	}
	return out
}

// volumes returns owner, mode, and checksum of each secret, and the owners of MongoDB's files, whose names change.
func (s *stack) volumes(t *testing.T) string {
	t.Helper()
	return s.docker(t, "run", "--rm", "--volume", backupProject+"_mongo:/mongo:ro", "--volume", backupProject+"_secrets:/secrets:ro",
		"nginx:1.30", "sh", "-euc", `
			find /secrets -printf '%p %U:%G %m\n' | sort
			find /secrets -type f -exec sha256sum {} + | sort
			stat --format '%n %u:%g %a' /mongo
			find /mongo -printf '%U:%G\n' | sort -u`)
}

// imageWithTools returns an image of MongoDB with the database tools. The official image has them. Where the local one has
// none, they are compiled into a copy. There mongorestore leaves the indexes to Balanza: a server that speaks a part of
// MongoDB's protocol rejects the option "ns" that mongorestore adds to each index.
func imageWithTools(t *testing.T) string {
	t.Helper()
	if exec.Command("docker", "run", "--rm", "--entrypoint", "mongorestore", mongoImage, "--version").Run() == nil {
		return mongoImage
	}
	dir, image := t.TempDir(), backupProject+"-mongo"
	for _, tool := range []string{"mongodump", "mongorestore"} {
		build := exec.Command("go", "build", "-modfile=../.ci/tools.mod", "-o", filepath.Join(dir, tool),
			"github.com/mongodb/mongo-tools/"+tool+"/main")
		build.Env = append(os.Environ(), "CGO_ENABLED=0")
		if out, err := build.CombinedOutput(); err != nil {
			t.Fatalf("%s: %v\n%s", tool, err, tail(string(out), 1000))
		}
	}
	build := exec.Command("docker", "build", "--quiet", "--tag", image, "--file", "-", dir)
	build.Stdin = strings.NewReader("FROM " + mongoImage + `
COPY mongodump /usr/bin/mongodump
COPY mongorestore /usr/libexec/mongorestore
RUN printf '#!/bin/sh\nexec /usr/libexec/mongorestore --noIndexRestore "$@"\n' >/usr/bin/mongorestore && chmod 755 /usr/bin/mongorestore
`)
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("docker build: %v\n%s", err, tail(string(out), 1000))
	}
	t.Cleanup(func() {
		if out, err := exec.Command("docker", "rmi", image).CombinedOutput(); err != nil {
			t.Errorf("docker rmi: %s", out)
		}
	})
	return image
}

// runMongodWithUser starts a MongoDB outside the stack, and returns a URI with a user and a password that containers and this
// machine can reach.
func runMongodWithUser(t *testing.T) string {
	t.Helper()
	out, err := exec.Command("docker", "network", "inspect", "--format", "{{(index .IPAM.Config 0).Gateway}}", "bridge").Output()
	if err != nil {
		t.Fatal(err)
	}
	address := string(bytes.TrimSpace(out)) + ":" + testenv.FreePort(t)
	const login = "elsewhere:secret"
	m := &mongod{t, backupProject + "-elsewhere", "mongodb://" + login + "@" + address + "/balanza?authSource=admin"}
	remove := func() { _ = exec.Command("docker", "rm", "--force", "--volumes", m.name).Run() } // it may not exist
	remove()
	t.Cleanup(remove)
	name, password, _ := strings.Cut(login, ":")
	m.docker("run", "--detach", "--name", m.name, "--publish", address+":27017", "--env", "MONGO_INITDB_ROOT_USERNAME="+name,
		"--env", "MONGO_INITDB_ROOT_PASSWORD="+password, mongoImage)
	m.awaitAnswer()
	return m.uri
}
