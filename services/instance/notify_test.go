package instance

import (
	"net"
	"testing"
	"time"
)

func TestParseNotification(t *testing.T) {
	for text, want := range map[string]notification{
		"":                                    {},
		"STATUS=READY=1":                      {},
		"READY=0":                             {},
		"READY":                               {},
		" READY=1":                            {},
		"READY=1":                             {ready: true},
		"STATUS=up\nREADY=1\n":                {ready: true},
		"RELOADING=1\nMONOTONIC_USEC=12":      {reloading: true},
		"STOPPING=1\n\nMAINPID=7":             {stopping: true},
		"EXTEND_TIMEOUT_USEC=1500000":         {extend: 1500 * time.Millisecond},
		"EXTEND_TIMEOUT_USEC=-1":              {},
		"EXTEND_TIMEOUT_USEC=1s":              {},
		"EXTEND_TIMEOUT_USEC=\nREADY=1":       {ready: true},
		"EXTEND_TIMEOUT_USEC=999999999999999": {extend: 24 * time.Hour},
	} {
		if got := parseNotification(text); got != want {
			t.Errorf("%q: %+v, not %+v", text, got, want)
		}
	}
}

// A flood of what is of no use does not keep READY=1 from being heard, and each socket has a name of its own.
func TestNotificationsOfUseAreKept(t *testing.T) {
	socket, notes, err := listenNotify(func(text string) { t.Error(text) })
	if err != nil {
		t.Fatal(err)
	}
	defer socket.Close()
	other, _, err := listenNotify(func(text string) { t.Error(text) }) // as that of another container with this process's number
	if err != nil {
		t.Fatal(err)
	}
	defer other.Close()
	if other.name == socket.name {
		t.Errorf("two sockets are named %q", socket.name)
	}
	conn, err := net.Dial("unixgram", socket.name)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	for range 10 * cap(notes) {
		if _, err := conn.Write([]byte("STATUS=at work")); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := conn.Write([]byte("READY=1")); err != nil {
		t.Fatal(err)
	}
	for end := time.After(5 * time.Second); ; {
		select {
		case n := <-notes:
			if n.ready {
				return
			}
		case <-end:
			t.Fatal("READY=1 was dropped")
		}
	}
}
