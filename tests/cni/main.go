// The library by which runtimes run CNI plugins, as a program: what it is told, it does to the plugins of a list.
//
//	libcni CONFDIR NETWORK add|check|del|validate CACHE ID NETNS IFNAME [CAPABILITIES-JSON [K=V;K=V]]
package main

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"strings"

	"github.com/containernetworking/cni/libcni"
)

func die(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func main() {
	args := append(os.Args[1:], "", "")
	list, err := libcni.LoadConfList(args[0], args[1])
	die(err)
	plugins := libcni.NewCNIConfigWithCacheDir(strings.Split(os.Getenv("CNI_PATH"), ":"), args[3], nil)
	runtime := &libcni.RuntimeConf{ContainerID: args[4], NetNS: args[5], IfName: args[6]}
	if args[7] != "" {
		die(json.Unmarshal([]byte(args[7]), &runtime.CapabilityArgs))
	}
	for _, pair := range strings.Split(args[8], ";") {
		if name, value, found := strings.Cut(pair, "="); found {
			runtime.Args = append(runtime.Args, [2]string{name, value})
		}
	}
	ctx := context.Background()
	switch args[2] {
	case "add":
		result, err := plugins.AddNetworkList(ctx, list, runtime)
		die(err)
		die(result.Print())
	case "check":
		die(plugins.CheckNetworkList(ctx, list, runtime))
	case "del":
		die(plugins.DelNetworkList(ctx, list, runtime))
	case "validate":
		_, err := plugins.ValidateNetworkList(ctx, list)
		die(err)
	default:
		die(fmt.Errorf("no such verb: %s", args[2]))
	}
}
