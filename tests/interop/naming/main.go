// A greeter on gRPC, found and called by name through etcd's own naming.
package main

import (
	"context"
	"log"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/client/v3/naming/endpoints"
	"go.etcd.io/etcd/client/v3/naming/resolver"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	hello "google.golang.org/grpc/examples/helloworld/helloworld"

	"rollcall.invalid/interop/line"
)

// ttl is the lease's, in seconds; naming has none of its own.
const ttl = 10

type greeter struct {
	hello.UnimplementedGreeterServer
	args line.Args
}

func (g greeter) SayHello(_ context.Context, in *hello.HelloRequest) (*hello.HelloReply, error) {
	return &hello.HelloReply{Message: g.args.Greeting(in.GetName())}, nil
}

func main() {
	args := line.Parse()
	ctx := context.Background()
	client, err := clientv3.New(clientv3.Config{Endpoints: []string{args.Etcd}, DialTimeout: 5 * time.Second})
	line.Must(err)
	manager, err := endpoints.NewManager(client, args.Name)
	line.Must(err)
	switch args.Mode {
	case "serve":
		listener := line.Listen()
		server := grpc.NewServer()
		hello.RegisterGreeterServer(server, greeter{args: args})
		go server.Serve(listener)
		address := listener.Addr().String()
		key := args.Name + "/" + address
		lease, err := client.Grant(ctx, ttl)
		line.Must(err)
		endpoint := endpoints.Endpoint{Addr: address, Metadata: map[string]any{"zone": "a<b>&c", "区域": "上海"}}
		line.Must(manager.AddEndpoint(ctx, key, endpoint, clientv3.WithLease(lease.ID)))
		renewals, err := client.KeepAlive(ctx, lease.ID)
		line.Must(err)
		go func() {
			for range renewals {
			}
		}()
		line.Stopped()
		line.Must(manager.DeleteEndpoint(ctx, key))
		server.GracefulStop()
	case "call":
		builder, err := resolver.NewBuilder(client)
		line.Must(err)
		options := []grpc.DialOption{
			grpc.WithResolvers(builder),
			grpc.WithTransportCredentials(insecure.NewCredentials()),
			grpc.WithDefaultServiceConfig(`{"loadBalancingConfig":[{"round_robin":{}}]}`),
		}
		if args.Authority != "" {
			options = append(options, grpc.WithAuthority(args.Authority))
		}
		conn, err := grpc.NewClient("etcd:///"+args.Name, options...)
		line.Must(err)
		caller := hello.NewGreeterClient(conn)
		args.Call(func(ctx context.Context) (string, error) {
			answer, err := caller.SayHello(ctx, &hello.HelloRequest{Name: "rollcall"})
			return answer.GetMessage(), err
		})
	case "list":
		found, err := manager.List(ctx)
		line.Print(found, err)
	default:
		log.Fatalf("no mode %q", args.Mode)
	}
}
