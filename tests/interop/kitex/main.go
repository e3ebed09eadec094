// A greeter on kitex, found and called by name through registry-etcd: Protobuf over gRPC, kitex' protocol that others speak too.
package main

import (
	"context"
	"errors"
	"log"
	"net"

	"github.com/cloudwego/kitex/client"
	"github.com/cloudwego/kitex/pkg/discovery"
	"github.com/cloudwego/kitex/pkg/klog"
	"github.com/cloudwego/kitex/pkg/rpcinfo"
	"github.com/cloudwego/kitex/pkg/serviceinfo"
	"github.com/cloudwego/kitex/pkg/streaming"
	"github.com/cloudwego/kitex/server"
	"github.com/cloudwego/kitex/transport"
	etcd "github.com/kitex-contrib/registry-etcd"
	hello "google.golang.org/grpc/examples/helloworld/helloworld"
	"google.golang.org/protobuf/proto"

	"rollcall.invalid/interop/line"
)

// request and answer are what kitex' generator would make around the messages.
type request struct{ message *hello.HelloRequest }

type answer struct{ message *hello.HelloReply }

func (r *request) Marshal([]byte) ([]byte, error) { return proto.Marshal(r.message) }

func (r *request) Unmarshal(in []byte) error {
	r.message = new(hello.HelloRequest)
	return proto.Unmarshal(in, r.message)
}

func (a *answer) Marshal([]byte) ([]byte, error) { return proto.Marshal(a.message) }

func (a *answer) Unmarshal(in []byte) error {
	a.message = new(hello.HelloReply)
	return proto.Unmarshal(in, a.message)
}

type greeting interface {
	greet(*hello.HelloRequest) *hello.HelloReply
}

type greeter struct{ args line.Args }

func (g *greeter) greet(in *hello.HelloRequest) *hello.HelloReply {
	return &hello.HelloReply{Message: g.args.Greeting(in.GetName())}
}

func handle(_ context.Context, handler, asked, told any) error {
	g := handler.(greeting)
	switch asked := asked.(type) {
	case *streaming.Args:
		in := new(hello.HelloRequest)
		if err := asked.Stream.RecvMsg(in); err != nil {
			return err
		}
		return asked.Stream.SendMsg(g.greet(in))
	case *request:
		told.(*answer).message = g.greet(asked.message)
		return nil
	}
	return errors.New("neither a stream nor a request")
}

// service describes gRPC's helloworld.Greeter.
func service() *serviceinfo.ServiceInfo {
	return &serviceinfo.ServiceInfo{
		ServiceName:  "Greeter",
		HandlerType:  (*greeting)(nil),
		PayloadCodec: serviceinfo.Protobuf,
		Extra:        map[string]any{"PackageName": "helloworld"},
		Methods: map[string]serviceinfo.MethodInfo{
			"SayHello": serviceinfo.NewMethodInfo(handle,
				func() any { return new(request) }, func() any { return new(answer) },
				false, serviceinfo.WithStreamingMode(serviceinfo.StreamingUnary)),
		},
	}
}

func main() {
	args := line.Parse()
	klog.SetLevel(klog.LevelError)
	switch args.Mode {
	case "serve":
		registry, err := etcd.NewEtcdRegistry([]string{args.Etcd})
		line.Must(err)
		address, err := net.ResolveTCPAddr("tcp", line.FreeAddress())
		line.Must(err)
		running := server.NewServer(server.WithServiceAddr(address), server.WithRegistry(registry),
			server.WithServerBasicInfo(&rpcinfo.EndpointBasicInfo{ServiceName: args.Name, Tags: map[string]string{"zone": "a<b>&c"}}))
		line.Must(running.RegisterService(service(), &greeter{args: args}))
		line.Must(running.Run())
	case "call":
		resolver, err := etcd.NewEtcdResolver([]string{args.Etcd})
		line.Must(err)
		caller, err := client.NewClient(service(), client.WithDestService(args.Name), client.WithResolver(resolver),
			client.WithTransportProtocol(transport.GRPC))
		line.Must(err)
		args.Call(func(ctx context.Context) (string, error) {
			var told answer
			err := caller.Call(ctx, "SayHello", &request{message: &hello.HelloRequest{Name: "rollcall"}}, &told)
			return told.message.GetMessage(), err
		})
	case "list":
		resolver, err := etcd.NewEtcdResolver([]string{args.Etcd})
		line.Must(err)
		found, err := resolver.Resolve(context.Background(), args.Name)
		type instance struct {
			Network, Address string
			Weight           int
		}
		listed := []instance{}
		for _, one := range found.Instances {
			var known discovery.Instance = one
			listed = append(listed, instance{known.Address().Network(), known.Address().String(), known.Weight()})
		}
		line.Print(listed, err)
	default:
		log.Fatalf("no mode %q", args.Mode)
	}
}
