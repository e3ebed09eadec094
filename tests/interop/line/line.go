// Package line is what all programs here have in common: the command line that `cargo xtask interop` gives them, and the
// lines it reads from them. Standard library only, so that it clashes with no framework.
package line

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"log"
	"net"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"
)

// Args is what a program is asked to do.
type Args struct {
	// Mode is serve, call or list.
	Mode string
	// Etcd is a member's host:port.
	Etcd string
	// Name is the service.
	Name string
	// ID is how this instance names itself in its answers.
	ID string
	// Over is http or grpc, where a framework knows both.
	Over string
	// Authority is the :authority that gRPC callers send, where they are not to choose it themselves.
	Authority string
	// Count is how many calls are made; 0 for as many as there is time for.
	Count int
	// Every is the pause between calls.
	Every time.Duration
}

// Parse reads the command line, or ends the program.
func Parse() Args {
	if len(os.Args) < 2 {
		log.Fatal("usage: serve|call|list --etcd HOST:PORT --name NAME [--id ID] [--over http|grpc] [--count N] [--every MS]")
	}
	args := Args{Mode: os.Args[1]}
	flags := flag.NewFlagSet(args.Mode, flag.ExitOnError)
	flags.StringVar(&args.Etcd, "etcd", "127.0.0.1:2379", "a member of etcd")
	flags.StringVar(&args.Name, "name", "helloworld", "the service")
	flags.StringVar(&args.ID, "id", "theirs", "how this instance names itself")
	flags.StringVar(&args.Over, "over", "grpc", "http or grpc")
	flags.StringVar(&args.Authority, "authority", "", "the :authority that gRPC callers send")
	flags.IntVar(&args.Count, "count", 1, "how many calls; 0 for no end")
	every := flags.Int("every", 100, "milliseconds between calls")
	flags.Parse(os.Args[2:])
	args.Every = time.Duration(*every) * time.Millisecond
	// Some frameworks parse the command line again.
	os.Args = os.Args[:1]
	return args
}

// Greeting is what every server here answers.
func (args Args) Greeting(name string) string {
	return fmt.Sprintf("Hello %s from %s", name, args.ID)
}

// Call makes the calls asked for, and prints `OK ANSWER` or `ERR WHY` for each.
func (args Args) Call(call func(context.Context) (string, error)) {
	for made := 0; args.Count == 0 || made < args.Count; made++ {
		if made > 0 {
			time.Sleep(args.Every)
		}
		ctx, cancel := context.WithTimeout(context.Background(), 3*time.Second)
		answer, err := call(ctx)
		cancel()
		if err != nil {
			fmt.Println("ERR", strings.ReplaceAll(err.Error(), "\n", " "))
		} else {
			fmt.Println("OK", answer)
		}
	}
}

// Print prints what a registry decodes as one line of JSON.
func Print(found any, err error) {
	if err != nil {
		log.Fatal(err)
	}
	text, err := json.Marshal(found)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(string(text))
}

// Listen takes a free port of loopback.
func Listen() net.Listener {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	Must(err)
	return listener
}

// FreeAddress is an address of loopback that nobody listened on just now, for frameworks that open their own.
func FreeAddress() string {
	listener := Listen()
	defer listener.Close()
	return listener.Addr().String()
}

// Stopped waits for SIGTERM or SIGINT, for frameworks that leave this to the program.
func Stopped() {
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, syscall.SIGTERM, syscall.SIGINT)
	<-signals
}

// Must ends the program where err is one.
func Must(err error) {
	if err != nil {
		log.Fatal(err)
	}
}
