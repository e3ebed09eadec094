// A greeter on go-kratos v2, found and called by name through its etcd registry.
package main

import (
	"context"
	"log"

	"github.com/go-kratos/kratos/contrib/registry/etcd/v2"
	"github.com/go-kratos/kratos/v2"
	"github.com/go-kratos/kratos/v2/transport/grpc"
	"github.com/go-kratos/kratos/v2/transport/http"
	clientv3 "go.etcd.io/etcd/client/v3"
	googlegrpc "google.golang.org/grpc"
	hello "google.golang.org/grpc/examples/helloworld/helloworld"

	"rollcall.invalid/interop/line"
)

type greeter struct {
	hello.UnimplementedGreeterServer
	args line.Args
}

type reply struct {
	Message string `json:"message"`
}

func (g greeter) SayHello(_ context.Context, in *hello.HelloRequest) (*hello.HelloReply, error) {
	return &hello.HelloReply{Message: g.args.Greeting(in.GetName())}, nil
}

func main() {
	args := line.Parse()
	client, err := clientv3.New(clientv3.Config{Endpoints: []string{args.Etcd}})
	line.Must(err)
	registry := etcd.New(client)
	switch args.Mode {
	case "serve":
		overHTTP := http.NewServer(http.Address("127.0.0.1:0"))
		overHTTP.Route("/").GET("/helloworld/{name}", func(ctx http.Context) error {
			return ctx.Result(200, reply{Message: args.Greeting(ctx.Vars().Get("name"))})
		})
		overGRPC := grpc.NewServer(grpc.Address("127.0.0.1:0"))
		hello.RegisterGreeterServer(overGRPC, greeter{args: args})
		app := kratos.New(
			kratos.ID(args.ID), kratos.Name(args.Name), kratos.Version("v1"),
			kratos.Metadata(map[string]string{"zone": "a<b>&c", "区域": "上海"}),
			kratos.Server(overHTTP, overGRPC), kratos.Registrar(registry),
		)
		line.Must(app.Run())
	case "call":
		target := "discovery:///" + args.Name
		if args.Over == "http" {
			conn, err := http.NewClient(context.Background(),
				http.WithEndpoint(target), http.WithDiscovery(registry), http.WithBlock())
			line.Must(err)
			args.Call(func(ctx context.Context) (string, error) {
				var answer reply
				err := conn.Invoke(ctx, "GET", "/helloworld/rollcall", nil, &answer)
				return answer.Message, err
			})
			return
		}
		options := []grpc.ClientOption{grpc.WithEndpoint(target), grpc.WithDiscovery(registry)}
		if args.Authority != "" {
			options = append(options, grpc.WithOptions(googlegrpc.WithAuthority(args.Authority)))
		}
		conn, err := grpc.DialInsecure(context.Background(), options...)
		line.Must(err)
		caller := hello.NewGreeterClient(conn)
		args.Call(func(ctx context.Context) (string, error) {
			answer, err := caller.SayHello(ctx, &hello.HelloRequest{Name: "rollcall"})
			return answer.GetMessage(), err
		})
	case "list":
		found, err := registry.GetService(context.Background(), args.Name)
		line.Print(found, err)
	default:
		log.Fatalf("no mode %q", args.Mode)
	}
}
