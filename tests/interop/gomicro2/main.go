// A greeter on go-micro v2, found and called by name through its etcd registry: gRPC, its default.
package main

import (
	"context"
	"log"
	"os"

	"github.com/micro/go-micro/v2"
	"github.com/micro/go-micro/v2/registry"

	"rollcall.invalid/interop/line"
)

// HelloRequest is gRPC's helloworld's, by hand: what the tutorial ships is newer than the protobuf of this go-micro.
type HelloRequest struct {
	Name string `protobuf:"bytes,1,opt,name=name,proto3" json:"name,omitempty"`
}

// HelloReply likewise.
type HelloReply struct {
	Message string `protobuf:"bytes,1,opt,name=message,proto3" json:"message,omitempty"`
}

func (m *HelloRequest) Reset()         { *m = HelloRequest{} }
func (m *HelloRequest) String() string { return m.Name }
func (*HelloRequest) ProtoMessage()    {}
func (m *HelloReply) Reset()           { *m = HelloReply{} }
func (m *HelloReply) String() string   { return m.Message }
func (*HelloReply) ProtoMessage()      {}

// Greeter is the handler.
type Greeter struct {
	args line.Args
}

// SayHello greets.
func (g *Greeter) SayHello(_ context.Context, request *HelloRequest, reply *HelloReply) error {
	reply.Message = g.args.Greeting(request.Name)
	return nil
}

func main() {
	args := line.Parse()
	os.Setenv("MICRO_REGISTRY", "etcd")
	os.Setenv("MICRO_REGISTRY_ADDRESS", args.Etcd)
	service := micro.NewService(micro.Name(args.Name), micro.Address("127.0.0.1:0"),
		micro.Metadata(map[string]string{"zone": "a<b>&c", "区域": "上海"}))
	service.Init()
	switch args.Mode {
	case "serve":
		line.Must(micro.RegisterHandler(service.Server(), &Greeter{args: args}))
		line.Must(service.Run())
	case "call":
		caller := service.Client()
		// Without a path, go-micro makes one of the service's name: /NAME.Greeter/SayHello.
		const endpoint = "/helloworld.Greeter/SayHello"
		args.Call(func(ctx context.Context) (string, error) {
			var answer HelloReply
			err := caller.Call(ctx, caller.NewRequest(args.Name, endpoint, &HelloRequest{Name: "rollcall"}), &answer)
			return answer.Message, err
		})
	case "list":
		found, err := service.Options().Registry.GetService(args.Name)
		if err == registry.ErrNotFound {
			found, err = []*registry.Service{}, nil
		}
		line.Print(found, err)
	default:
		log.Fatalf("no mode %q", args.Mode)
	}
}
