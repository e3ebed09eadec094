package main

import (
	"context"

	"github.com/go-kratos/kratos/contrib/registry/etcd/v2"
	older "github.com/go-kratos/kratos/v2/registry"
	"github.com/go-kratos/kratos/v3/registry"
	clientv3 "go.etcd.io/etcd/client/v3"
)

// adapter gives v2's etcd registry v3's types. v3's own differs from it in one import path, and was not to be had
// when this was written.
type adapter struct{ registry *etcd.Registry }

func newRegistry(client *clientv3.Client) adapter { return adapter{registry: etcd.New(client)} }

func (a adapter) Register(ctx context.Context, instance *registry.ServiceInstance) error {
	return a.registry.Register(ctx, (*older.ServiceInstance)(instance))
}

func (a adapter) Deregister(ctx context.Context, instance *registry.ServiceInstance) error {
	return a.registry.Deregister(ctx, (*older.ServiceInstance)(instance))
}

func (a adapter) GetService(ctx context.Context, name string) ([]*registry.ServiceInstance, error) {
	return newer(a.registry.GetService(ctx, name))
}

func (a adapter) Watch(ctx context.Context, name string) (registry.Watcher, error) {
	watcher, err := a.registry.Watch(ctx, name)
	if err != nil {
		return nil, err
	}
	return watch{watcher}, nil
}

type watch struct{ watcher older.Watcher }

func (w watch) Next() ([]*registry.ServiceInstance, error) { return newer(w.watcher.Next()) }

func (w watch) Stop() error { return w.watcher.Stop() }

func newer(found []*older.ServiceInstance, err error) ([]*registry.ServiceInstance, error) {
	instances := make([]*registry.ServiceInstance, 0, len(found))
	for _, instance := range found {
		instances = append(instances, (*registry.ServiceInstance)(instance))
	}
	return instances, err
}
