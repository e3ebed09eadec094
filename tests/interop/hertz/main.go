// A greeter on hertz, found and called by name through registry/etcd.
package main

import (
	"context"
	"encoding/json"
	"fmt"
	"log"

	"github.com/cloudwego/hertz/pkg/app"
	"github.com/cloudwego/hertz/pkg/app/client"
	"github.com/cloudwego/hertz/pkg/app/client/discovery"
	"github.com/cloudwego/hertz/pkg/app/middlewares/client/sd"
	"github.com/cloudwego/hertz/pkg/app/server"
	"github.com/cloudwego/hertz/pkg/app/server/registry"
	"github.com/cloudwego/hertz/pkg/common/config"
	"github.com/cloudwego/hertz/pkg/common/hlog"
	"github.com/cloudwego/hertz/pkg/common/utils"
	"github.com/hertz-contrib/registry/etcd"

	"rollcall.invalid/interop/line"
)

type reply struct {
	Message string `json:"message"`
}

func main() {
	args := line.Parse()
	hlog.SetLevel(hlog.LevelError)
	if args.Mode == "serve" {
		registrar, err := etcd.NewEtcdRegistry([]string{args.Etcd})
		line.Must(err)
		address := line.FreeAddress()
		running := server.Default(server.WithHostPorts(address), server.WithRegistry(registrar, &registry.Info{
			ServiceName: args.Name,
			Addr:        utils.NewNetAddr("tcp", address),
			Weight:      10,
			Tags:        map[string]string{"zone": "a<b>&c"},
		}))
		running.GET("/helloworld/:name", func(_ context.Context, ctx *app.RequestContext) {
			ctx.JSON(200, reply{Message: args.Greeting(ctx.Param("name"))})
		})
		running.Spin()
		return
	}
	resolver, err := etcd.NewEtcdResolver([]string{args.Etcd})
	line.Must(err)
	switch args.Mode {
	case "call":
		caller, err := client.NewClient()
		line.Must(err)
		caller.Use(sd.Discovery(resolver))
		args.Call(func(ctx context.Context) (string, error) {
			status, body, err := caller.Get(ctx, nil, "http://"+args.Name+"/helloworld/rollcall", config.WithSD(true))
			if err == nil && status != 200 {
				err = fmt.Errorf("status %d", status)
			}
			if err != nil {
				return "", err
			}
			var answer reply
			err = json.Unmarshal(body, &answer)
			return answer.Message, err
		})
	case "list":
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
