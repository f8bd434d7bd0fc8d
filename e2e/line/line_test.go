package line

import (
	"context"
	"errors"
	"io"
	"net"
	"os"
	"testing"
	"time"
)

// TestMain runs the far end of the tests, when the tests start it in the namespace: it writes as many zeros to each
// connection as its first byte says, in units of 10,000, and then sends back what it reads.
func TestMain(m *testing.M) {
	if len(os.Args) != 2 || os.Args[1] != "far-end" {
		os.Exit(m.Run())
	}
	ln, err := net.Listen("tcp", ":8081")
	if err != nil {
		panic(err)
	}
	for {
		conn, err := ln.Accept()
		if err != nil {
			panic(err)
		}
		go func() {
			defer conn.Close()
			var units [1]byte
			if _, err := io.ReadFull(conn, units[:]); err != nil {
				return
			}
			_, _ = conn.Write(make([]byte, 10_000*int(units[0])))
			_, _ = io.Copy(conn, conn)
		}()
	}
}

// dial connects to the far end, as soon as it listens, and orders units of zeros.
func dial(t *testing.T, l *Line, units byte) net.Conn {
	t.Helper()
	for began := time.Now(); ; time.Sleep(20 * time.Millisecond) {
		conn, err := net.DialTimeout("tcp", net.JoinHostPort(l.Address, "8081"), 10*time.Second)
		if err != nil && time.Since(began) < 20*time.Second {
			continue // it is starting
		}
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { conn.Close() })
		_ = conn.SetDeadline(time.Now().Add(time.Minute))
		if _, err := conn.Write([]byte{units}); err != nil {
			t.Fatal(err)
		}
		return conn
	}
}

func startFarEnd(t *testing.T, l *Line) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	cmd := l.Command(ctx, os.Args[0], "far-end")
	cmd.Stderr = os.Stderr
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { cancel(); _ = cmd.Wait() })
	dial(t, l, 0).Close()
}

// receive reads n bytes and returns the time that they took.
func receive(t *testing.T, conn net.Conn, n int64) time.Duration {
	t.Helper()
	began := time.Now()
	if _, err := io.CopyN(io.Discard, conn, n); err != nil {
		t.Fatal(err)
	}
	return time.Since(began)
}

// echo sends a byte and waits until it is back.
func echo(conn net.Conn, timeout time.Duration) error {
	_ = conn.SetDeadline(time.Now().Add(timeout))
	if _, err := conn.Write([]byte{1}); err != nil {
		return err
	}
	_, err := io.ReadFull(conn, make([]byte, 1))
	return err
}

func TestRateAndDelay(t *testing.T) {
	l := New(t, Config{})
	startFarEnd(t, l)
	if took := receive(t, dial(t, l, 200), 2_000_000); took > 5*time.Second {
		t.Errorf("without a limit 2 MB took %v", took)
	}

	l.Set(Config{Delay: 100 * time.Millisecond})
	began := time.Now()
	if err := echo(dial(t, l, 0), time.Minute); err != nil {
		t.Fatal(err)
	}
	// The handshake and the echo are a round trip each.
	if took := time.Since(began); took < 400*time.Millisecond || took > 2*time.Second {
		t.Errorf("handshake and echo took %v, want 400 ms", took)
	}

	// A buffer of 32 KiB is 0.5 s here: TCP fills it, meets its end, and goes on.
	l.Set(Config{Rate: 512_000, Delay: 50 * time.Millisecond})
	before := l.Carried()
	const size = 200_000
	took := receive(t, dial(t, l, size/10_000), size)
	t.Logf("%d bytes at 512 kbit/s took %v; the line carried %d", size, took, l.Carried()-before)
	if ideal := time.Duration(size) * 8 * time.Second / 512_000; took < ideal*9/10 || took > 2*ideal+time.Second {
		t.Errorf("%d bytes took %v, want about %v", size, took, ideal)
	}
	if carried := l.Carried() - before; carried < size || carried > 2*size {
		t.Errorf("the line carried %d bytes for %d", carried, size)
	}
}

// Silence neither resets nor answers: the ends of a connection learn nothing, and only new connections work.
func TestSilence(t *testing.T) {
	l := New(t, Config{})
	startFarEnd(t, l)
	old := dial(t, l, 0)
	if err := echo(old, 10*time.Second); err != nil {
		t.Fatal(err)
	}
	l.Silence()
	if err := echo(old, time.Second); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("on the silenced connection: %v, want a timeout", err)
	}
	young := dial(t, l, 0)
	if err := echo(young, 10*time.Second); err != nil {
		t.Errorf("on a new connection: %v", err)
	}
	l.Silence()
	for _, conn := range []net.Conn{old, young} {
		if err := echo(conn, time.Second); !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("after the second silence: %v, want a timeout", err)
		}
	}
}
