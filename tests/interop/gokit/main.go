// A greeter on go-kit, found and called by name through sd/etcdv3.
package main

import (
	"context"
	"encoding/json"
	"io"
	"log"
	"net/http"
	"net/url"
	"time"

	"github.com/go-kit/kit/endpoint"
	"github.com/go-kit/kit/sd"
	"github.com/go-kit/kit/sd/etcdv3"
	"github.com/go-kit/kit/sd/lb"
	transport "github.com/go-kit/kit/transport/http"
	kitlog "github.com/go-kit/log"

	"rollcall.invalid/interop/line"
)

type reply struct {
	Message string `json:"message"`
}

func nothing(context.Context, *http.Request, any) error { return nil }

func decode(_ context.Context, response *http.Response) (any, error) {
	var answer reply
	err := json.NewDecoder(response.Body).Decode(&answer)
	return answer.Message, err
}

func caller(instance string) (endpoint.Endpoint, io.Closer, error) {
	target, err := url.Parse(instance + "/helloworld/rollcall")
	if err != nil {
		return nil, nil, err
	}
	return transport.NewClient("GET", target, nothing, decode).Endpoint(), nil, nil
}

func main() {
	args := line.Parse()
	client, err := etcdv3.NewClient(context.Background(), []string{args.Etcd}, etcdv3.ClientOptions{DialTimeout: 5 * time.Second})
	line.Must(err)
	// The instances of a service stand below this; go-kit leaves it to its users.
	prefix := "/services/" + args.Name + "/"
	logger := kitlog.NewNopLogger()
	switch args.Mode {
	case "serve":
		listener := line.Listen()
		decodeName := func(_ context.Context, request *http.Request) (any, error) { return request.PathValue("name"), nil }
		greet := func(_ context.Context, name any) (any, error) {
			return reply{Message: args.Greeting(name.(string))}, nil
		}
		routes := http.NewServeMux()
		routes.Handle("GET /helloworld/{name}", transport.NewServer(greet, decodeName, transport.EncodeJSONResponse))
		go http.Serve(listener, routes)
		address := listener.Addr().String()
		registrar := etcdv3.NewRegistrar(client, etcdv3.Service{Key: prefix + address, Value: "http://" + address}, logger)
		registrar.Register()
		line.Stopped()
		registrar.Deregister()
	case "call":
		instancer, err := etcdv3.NewInstancer(client, prefix, logger)
		line.Must(err)
		endpointer := sd.NewEndpointer(instancer, caller, logger)
		call := lb.Retry(3, 2*time.Second, lb.NewRoundRobin(endpointer))
		args.Call(func(ctx context.Context) (string, error) {
			answer, err := call(ctx, nil)
			if err != nil {
				return "", err
			}
			return answer.(string), nil
		})
	case "list":
		found, err := client.GetEntries(prefix)
		line.Print(found, err)
	default:
		log.Fatalf("no mode %q", args.Mode)
	}
}
