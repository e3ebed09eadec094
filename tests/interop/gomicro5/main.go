// A greeter on go-micro v5, found and called by name through its etcd registry: its own protocol, mucp, over HTTP.
package main

import (
	"context"
	"log"
	"os"

	"go-micro.dev/v5"
	"go-micro.dev/v5/registry"

	"rollcall.invalid/interop/line"
)

// Request is what the greeter is asked.
type Request struct {
	Name string `json:"name"`
}

// Response is what it answers.
type Response struct {
	Message string `json:"message"`
}

// Greeter is the handler.
type Greeter struct {
	args line.Args
}

// Hello greets.
func (g *Greeter) Hello(_ context.Context, request *Request, response *Response) error {
	response.Message = g.args.Greeting(request.Name)
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
		args.Call(func(ctx context.Context) (string, error) {
			var answer Response
			err := caller.Call(ctx, caller.NewRequest(args.Name, "Greeter.Hello", &Request{Name: "rollcall"}), &answer)
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
