package sqlitestore_test

import (
	"bufio"
	"context"
	"database/sql"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"balanza/services/store"
	"balanza/services/store/sqlitestore"
	"balanza/services/store/storetest"
)

// A child process finds the file to write to and the author of its messages in these environment variables.
const (
	childFile   = "BALANZA_TEST_CHILD_FILE"
	childAuthor = "BALANZA_TEST_CHILD_AUTHOR"
	childWrites = 60 // messages
)

func TestMain(m *testing.M) {
	if path := os.Getenv(childFile); path != "" {
		if err := child(path, os.Getenv(childAuthor)); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// child appends messages and prints author, client id and number of each that was acknowledged.
func child(path, author string) error {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	s, err := sqlitestore.Open(ctx, path)
	if err != nil {
		return err
	}
	_, err = storetest.Write(ctx, s, author, childWrites, func(clientID string, n int64) {
		fmt.Println(author, clientID, n)
	})
	if err != nil {
		return err
	}
	return s.Close()
}

// run starts a child and returns the numbers that it printed. It kills the child after killAfter of them, unless that is 0.
func run(t *testing.T, path, author string, killAfter int) map[string]int64 {
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), childFile+"="+path, childAuthor+"="+author)
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Error(err)
		return nil
	}
	if err := cmd.Start(); err != nil {
		t.Error(err)
		return nil
	}
	acked := map[string]int64{}
	for lines := bufio.NewScanner(out); lines.Scan(); {
		var writer, id string
		var n int64
		if _, err := fmt.Sscan(lines.Text(), &writer, &id, &n); err != nil {
			t.Errorf("child %s printed %q", author, lines.Text())
			continue
		}
		acked[writer+" "+id] = n
		if len(acked) == killAfter {
			cmd.Process.Kill()
		}
	}
	if err := cmd.Wait(); err != nil && killAfter == 0 {
		t.Errorf("child %s: %v", author, err)
	}
	return acked
}

func TestProcesses(t *testing.T) {
	const children = 8
	path := filepath.Join(t.TempDir(), "new", "balanza.db")
	results := make(chan map[string]int64)
	for i := range children {
		killAfter := 0
		if i%4 == 3 {
			killAfter = 20
		}
		go func() { results <- run(t, path, fmt.Sprint("author", i), killAfter) }()
	}
	var acked []map[string]int64
	for range children {
		acked = append(acked, <-results)
	}
	s := open(t, path)
	storetest.Verify(t, s, acked...)

	// A child was killed. Its pages would repeat all their messages.
	repeated := run(t, path, "author3", 0)
	if len(repeated) != childWrites {
		t.Errorf("%d acknowledged the second time, of %d", len(repeated), childWrites)
	}
	storetest.Verify(t, s, append(acked, repeated)...)
}

func TestFileIsPrivate(t *testing.T) {
	folder := filepath.Join(t.TempDir(), "data")
	s := open(t, filepath.Join(folder, "balanza.db"))
	if _, err := s.Append(t.Context(), []store.Entry{{Kind: store.LoggedOut, ClientID: "1"}}); err != nil {
		t.Fatal(err)
	}
	files, err := os.ReadDir(folder)
	if err != nil {
		t.Fatal(err)
	}
	modes := map[string]os.FileMode{".": 0o700 | os.ModeDir, "balanza.db": 0o600, "balanza.db-wal": 0o600, "balanza.db-shm": 0o600}
	for name, want := range modes {
		info, err := os.Stat(filepath.Join(folder, name))
		if err != nil {
			t.Error(err)
		} else if info.Mode() != want {
			t.Errorf("%s has mode %v, want %v", name, info.Mode(), want)
		}
	}
	if len(files) != len(modes)-1 {
		t.Errorf("files %v", files)
	}
}

func TestOpenFails(t *testing.T) {
	folder := t.TempDir()
	notSQLite := filepath.Join(folder, "text")
	if err := os.WriteFile(notSQLite, []byte(strings.Repeat("not a database ", 100)), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{folder, notSQLite, filepath.Join(notSQLite, "balanza.db")} {
		if s, err := sqlitestore.Open(t.Context(), path); err == nil {
			t.Errorf("%s was opened", path)
			s.Close()
		} else if !strings.Contains(err.Error(), path) && !strings.Contains(err.Error(), notSQLite) {
			t.Errorf("the error does not name the file: %v", err)
		}
	}
}

func TestPathWithSpecialCharacters(t *testing.T) {
	path := filepath.Join(t.TempDir(), "a b?c#d%20e&f=ñ", "x?mode=memory.db")
	if err := open(t, path).Ping(t.Context()); err != nil {
		t.Fatal(err)
	}
	if info, err := os.Stat(path); err != nil || info.Size() == 0 {
		t.Errorf("file %v, %v", info, err)
	}
}

// A file of version 1 gets the present schema from the first of several processes that open it, and keeps its records. The
// session ids of version 1 are not kept: each is the value of a cookie.
func TestFileOfEarlierVersion(t *testing.T) {
	path := filepath.Join(t.TempDir(), "balanza.db")
	old, err := sql.Open("sqlite", path)
	if err != nil {
		t.Fatal(err)
	}
	defer old.Close()
	schema, err := os.ReadFile("schema.1.sql")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := old.Exec(string(schema) + `
		INSERT INTO users VALUES ('ana', CAST('hash' AS BLOB), '{"id":"ana","nombre":"Ana"}', 1);
		INSERT INTO sessions VALUES ('cookie', 'ana', 9999999999999);
		INSERT INTO products VALUES ('p', 'Regla', 1.5, '');
		INSERT INTO entries VALUES (1, 'logout', 's', NULL, '', '1')`); err != nil {
		t.Fatal(err)
	}
	stores := make([]store.Store, 4)
	var opening sync.WaitGroup
	for i := range stores {
		opening.Go(func() {
			stores[i] = open(t, path)
		})
	}
	opening.Wait()
	var sessions, last int
	if err := old.QueryRow(`SELECT (SELECT count(*) FROM sessions), (SELECT max(n) FROM entries)`).Scan(&sessions, &last); err != nil {
		t.Fatal(err)
	}
	if sessions != 0 || last != 1 {
		t.Errorf("%d sessions of version 1 are left, and the log ends at %d", sessions, last)
	}
	storetest.EarlierVersion(t, stores[0], "ana", "cookie", "p")

	// A process of the earlier version, which goes on running during an update, writes its record as before.
	if _, err := old.Exec(`REPLACE INTO processes VALUES ('old', '{"ID":"old","PID":7,"Websockets":3}', 9999999999999)`); err != nil {
		t.Fatal(err)
	}
	if err := stores[0].PutProcess(t.Context(), store.Process{ID: "new", Panels: 2, Expires: time.Now().Add(time.Minute)}); err != nil {
		t.Fatal(err)
	}
	if live, panels, err := stores[1].CountProcesses(t.Context(), time.Now()); live != 2 || panels != 2 || err != nil {
		t.Errorf("%d processes, %d panels, %v", live, panels, err)
	}
	if all, err := stores[1].Processes(t.Context(), time.Now()); len(all) != 2 || err != nil {
		t.Errorf("%+v, %v", all, err)
	}
}

func TestLockedByAnotherProcess(t *testing.T) {
	path := filepath.Join(t.TempDir(), "balanza.db")
	s := open(t, path)
	other, err := sql.Open("sqlite", path)
	if err != nil {
		t.Fatal(err)
	}
	defer other.Close()
	if _, err := other.Exec("BEGIN IMMEDIATE"); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	for name, err := range map[string]error{
		"product": s.CreateProduct(ctx, store.Product{ID: "1"}, 1),
		"session": s.CreateSession(t.Context(), store.Session{ID: "1"}),
	} {
		if !errors.Is(err, store.ErrUnavailable) {
			t.Errorf("%s: error %v, want %v", name, err, store.ErrUnavailable)
		}
	}
	if err := s.Ping(t.Context()); err != nil {
		t.Errorf("read while another process writes: %v", err)
	}
}
