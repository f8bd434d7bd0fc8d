// Activated is a web server that knows systemd's socket activation, and nothing of Balanza.
package main

import (
	"context"
	"log"
	"net"
	"net/http"
	"os"
	"os/signal"
	"strconv"
	"syscall"
)

func main() {
	pid := strconv.Itoa(os.Getpid())
	if os.Getenv("LISTEN_PID") != pid || os.Getenv("LISTEN_FDS") != "1" {
		log.Fatalf("LISTEN_PID=%s LISTEN_FDS=%s: not for process %s", os.Getenv("LISTEN_PID"), os.Getenv("LISTEN_FDS"), pid)
	}
	ln, err := net.FileListener(os.NewFile(3, "socket"))
	if err != nil {
		log.Fatal(err)
	}
	server := http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("X-Pid", pid)
	})}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	go func() { log.Print(server.Serve(ln)) }()
	<-ctx.Done()
	if err := server.Shutdown(context.Background()); err != nil {
		log.Fatal(err)
	}
}
