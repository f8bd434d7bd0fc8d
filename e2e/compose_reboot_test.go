package e2e

import (
	"fmt"
	"math/rand/v2"
	"net/http"
	"slices"
	"testing"
	"time"
)

// back waits until the user is still logged in and requests are balanced.
func (s *stack) back(t *testing.T, u *user, what string, since time.Time) {
	t.Helper()
	eventually(t, "the session after "+what, func() error { return u.loggedIn(composeHTTP) })
	t.Logf("%s: the site with its session is back after %v", what, time.Since(since).Round(100*time.Millisecond))
	s.awaitEven(t, since, 4)
}

// testReboot stops all containers and starts them in a random order, the database 20 seconds after the others.
func testReboot(t *testing.T, s *stack) {
	u := newUser(t, composeHTTP, "reboot")
	mongo := s.containers(t, "mongo")
	others := slices.DeleteFunc(s.containers(t, ""), func(id string) bool { return id == mongo[0] })
	s.docker(t, append([]string{"stop"}, append(others, mongo...)...)...)
	rand.Shuffle(len(others), func(i, j int) { others[i], others[j] = others[j], others[i] })
	for _, id := range others {
		s.docker(t, "start", id)
	}
	eventually(t, "random numbers without a database", func() error { return status(http.StatusOK, randomsPath) })
	time.Sleep(20 * time.Second)
	s.docker(t, "start", mongo[0])
	s.back(t, u, "a reboot", time.Now())
}

// testPauses freezes the containers that testHangs does not for 15 seconds: no GET fails where a server of its kind lives.
func testPauses(t *testing.T, s *stack) {
	u := newUser(t, composeHTTP, "pauses")
	replicas := s.containers(t, "replica")
	for _, frozen := range []struct {
		name       string
		containers []string
		served     []string // paths that a living server answers
	}{
		{"cluster, two replicas and mongo", slices.Concat(s.containers(t, "cluster"), replicas[1:3], s.containers(t, "mongo")),
			[]string{randomsPath, "/info", "/login"}},
		{"nginx", s.containers(t, "nginx"), nil},
	} {
		pause := func() {
			s.docker(t, append([]string{"pause"}, frozen.containers...)...)
			time.Sleep(15 * time.Second)
			s.docker(t, append([]string{"unpause"}, frozen.containers...)...)
		}
		if frozen.served == nil {
			pause()
		} else {
			underLoad(t, "a pause of "+frozen.name, pause, frozen.served...)
		}
		s.back(t, u, fmt.Sprintf("a pause of %s", frozen.name), time.Now())
	}
}
