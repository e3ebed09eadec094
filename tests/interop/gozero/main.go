// A greeter on go-zero's zrpc, found and called by name through its etcd discovery.
package main

import (
	"context"
	"encoding/json"
	"log"

	"github.com/zeromicro/go-zero/core/conf"
	"github.com/zeromicro/go-zero/core/discov"
	"github.com/zeromicro/go-zero/core/logx"
	"github.com/zeromicro/go-zero/core/stat"
	"github.com/zeromicro/go-zero/zrpc"
	"google.golang.org/grpc"
	hello "google.golang.org/grpc/examples/helloworld/helloworld"

	"rollcall.invalid/interop/line"
)

type greeter struct {
	hello.UnimplementedGreeterServer
	args line.Args
}

func (g greeter) SayHello(_ context.Context, in *hello.HelloRequest) (*hello.HelloReply, error) {
	return &hello.HelloReply{Message: g.args.Greeting(in.GetName())}, nil
}

// load fills in go-zero's defaults, as its configuration files do.
func load(into any, settings map[string]any) {
	text, err := json.Marshal(settings)
	line.Must(err)
	line.Must(conf.LoadFromJsonBytes(text, into))
}

func main() {
	args := line.Parse()
	logx.Disable()
	stat.DisableLog()
	etcd := map[string]any{"Hosts": []string{args.Etcd}, "Key": args.Name}
	switch args.Mode {
	case "serve":
		var config zrpc.RpcServerConf
		load(&config, map[string]any{"Name": args.Name, "ListenOn": line.FreeAddress(), "Etcd": etcd})
		server, err := zrpc.NewServer(config, func(server *grpc.Server) {
			hello.RegisterGreeterServer(server, greeter{args: args})
		})
		line.Must(err)
		logx.Disable()
		server.Start()
	case "call":
		var config zrpc.RpcClientConf
		load(&config, map[string]any{"Etcd": etcd, "NonBlock": true})
		client, err := zrpc.NewClient(config)
		line.Must(err)
		caller := hello.NewGreeterClient(client.Conn())
		args.Call(func(ctx context.Context) (string, error) {
			answer, err := caller.SayHello(ctx, &hello.HelloRequest{Name: "rollcall"})
			return answer.GetMessage(), err
		})
	case "list":
		subscriber, err := discov.NewSubscriber([]string{args.Etcd}, args.Name)
		line.Must(err)
		line.Print(subscriber.Values(), nil)
	default:
		log.Fatalf("no mode %q", args.Mode)
	}
}
