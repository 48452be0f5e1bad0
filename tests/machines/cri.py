"""A client of the Kubernetes container runtime interface: what kubelet asks of containerd.

    cri.py SOCKET status | run NAME PORT | address NAME | pid NAME | id NAME | stop NAME
"""

import json
import sys

import grpc
from cri_api.v1 import api_pb2, api_pb2_grpc


def find(runtime, name):
    for pod in runtime.ListPodSandbox(api_pb2.ListPodSandboxRequest()).items:
        if pod.metadata.name == name:
            return pod.id
    sys.exit(f"there is no pod {name}")


def status_of(runtime, name):
    asked = api_pb2.PodSandboxStatusRequest(pod_sandbox_id=find(runtime, name), verbose=True)
    return runtime.PodSandboxStatus(asked)


def run(runtime, name, port):
    config = api_pb2.PodSandboxConfig(
        metadata=api_pb2.PodSandboxMetadata(name=name, uid=f"uid-{name}", namespace="default", attempt=0),
        hostname=name,
        log_directory="/tmp",
        port_mappings=[api_pb2.PortMapping(protocol=0, container_port=80, host_port=int(port))],
    )
    print(runtime.RunPodSandbox(api_pb2.RunPodSandboxRequest(config=config)).pod_sandbox_id)


def stop(runtime, name):
    pod = find(runtime, name)
    runtime.StopPodSandbox(api_pb2.StopPodSandboxRequest(pod_sandbox_id=pod))
    runtime.RemovePodSandbox(api_pb2.RemovePodSandboxRequest(pod_sandbox_id=pod))


def main(socket, verb, *arguments):
    runtime = api_pb2_grpc.RuntimeServiceStub(grpc.insecure_channel(f"unix://{socket}"))
    if verb == "status":
        for condition in runtime.Status(api_pb2.StatusRequest()).status.conditions:
            print(condition.type, condition.status, condition.reason, condition.message)
    elif verb == "run":
        run(runtime, *arguments)
    elif verb == "id":
        print(find(runtime, *arguments))
    elif verb == "address":
        print(status_of(runtime, *arguments).status.network.ip)
    elif verb == "pid":
        print(json.loads(status_of(runtime, *arguments).info["info"])["pid"])
    elif verb == "stop":
        stop(runtime, *arguments)
    else:
        sys.exit(__doc__)


try:
    main(*sys.argv[1:])
except grpc.RpcError as error:
    sys.exit(error.details())
