"""A VPC for hosts that boot: moto as EC2, the instance metadata (IMDSv2, an identity by the caller's address), and a loop that turns the
route tables into routes of this namespace, so that a packet arrives only if they are right.

Arguments: the beginning of addresses of IPv6, which end with the last number of those of IPv4; ADDRESS=MAC of each host. Prints "ready" once
all answer.
"""

import ipaddress
import json
import os
import subprocess
import sys
import threading
import time

os.environ.update(AWS_ACCESS_KEY_ID="test", AWS_SECRET_ACCESS_KEY="test", AWS_DEFAULT_REGION="eu-west-1")

import boto3
from flask import Flask, request
from moto.server import ThreadedMotoServer
from werkzeug.serving import make_server

ROUTER, PORT, REGION, TAG = "10.0.1.1", 9000, "eu-west-1", {"Key": "weave-cluster", "Value": "test"}
# One that moto knows.
IMAGE = "ami-12c6146b"
CREDENTIALS = json.dumps({
    "Code": "Success", "Type": "AWS-HMAC", "AccessKeyId": "test", "SecretAccessKey": "test", "Token": "test",
    "LastUpdated": "2026-01-01T00:00:00Z", "Expiration": "2036-01-01T00:00:00Z",
})


def launch(ec2, subnet, address, mac):
    """An instance at this address; its interface, and what the metadata say of it."""
    instance = ec2.run_instances(
        ImageId=IMAGE, MinCount=1, MaxCount=1,
        NetworkInterfaces=[{"DeviceIndex": 0, "SubnetId": subnet["SubnetId"], "PrivateIpAddress": address}],
        TagSpecifications=[{"ResourceType": "instance", "Tags": [TAG]}],
    )["Instances"][0]
    interface = instance["NetworkInterfaces"][0]["NetworkInterfaceId"]
    of_mac = f"network/interfaces/macs/{mac}/"
    return interface, {
        "instance-id": instance["InstanceId"], "mac": mac, "local-ipv4": address, "placement/region": REGION,
        "network/interfaces/macs/": mac + "/", of_mac + "interface-id": interface, of_mac + "device-number": "0",
        of_mac + "subnet-id": subnet["SubnetId"], of_mac + "vpc-id": subnet["VpcId"],
        "iam/security-credentials/": "role", "iam/security-credentials/role": CREDENTIALS,
    }


def routes(ec2, table):
    """What the table holds, as destination: interface."""
    found = ec2.describe_route_tables(RouteTableIds=[table])["RouteTables"][0]["Routes"]
    return {
        one.get("DestinationCidrBlock") or one["DestinationIpv6CidrBlock"]: one["NetworkInterfaceId"]
        for one in found if one.get("NetworkInterfaceId")
    }


def forward(ec2, table, interfaces):
    """Keeps the kernel's routes those of the table. Each interface has an address of IPv4 and one of IPv6."""
    kept = {}
    while True:
        wanted = {to: interfaces[by][":" in to] for to, by in routes(ec2, table).items() if by in interfaces}
        for to in kept.keys() - wanted.keys():
            subprocess.run(["ip", "route", "delete", to, "proto", "static"], check=False)
        for to, address in wanted.items():
            if kept.get(to) != address:
                subprocess.run(["ip", "route", "replace", to, "via", address, "proto", "static"], check=False)
        kept = wanted
        time.sleep(0.1)


def metadata(hosts, ec2, table):
    app = Flask("metadata")

    @app.put("/latest/api/token")
    def token():
        return "token", 200, {"x-aws-ec2-metadata-token-ttl-seconds": "21600"}

    @app.get("/latest/meta-data/<path:key>")
    def get(key):
        return hosts.get(request.remote_addr, {}).get(key) or ("", 404)

    @app.get("/test/table")
    def show():
        return "".join(f"{to} {by}\n" for to, by in sorted(routes(ec2, table).items()))

    @app.get("/test/drop/<path:cidr>")
    def drop(cidr):
        ec2.delete_route(RouteTableId=table, DestinationCidrBlock=str(ipaddress.ip_network(cidr)))
        return ""

    return app


def main():
    ThreadedMotoServer(ip_address=ROUTER, port=PORT, verbose=False).start()
    ec2 = boto3.client("ec2", endpoint_url=f"http://{ROUTER}:{PORT}", region_name=REGION)
    vpc = ec2.create_vpc(CidrBlock="10.0.0.0/16")["Vpc"]["VpcId"]
    subnet = ec2.create_subnet(VpcId=vpc, CidrBlock="10.0.1.0/24")["Subnet"]
    table = ec2.describe_route_tables(Filters=[{"Name": "vpc-id", "Values": [vpc]}])["RouteTables"][0]["RouteTableId"]
    interfaces, hosts = {}, {}
    subnet6, *of_hosts = sys.argv[1:]
    for argument in of_hosts:
        address, mac = argument.split("=")
        interface, hosts[address] = launch(ec2, subnet, address, mac)
        interfaces[interface] = address, f"{subnet6}:{address.split('.')[-1]}"
    threading.Thread(target=forward, args=(ec2, table, interfaces), daemon=True).start()
    server = make_server("169.254.169.254", 80, metadata(hosts, ec2, table), threaded=True)
    print("ready", flush=True)
    server.serve_forever()


main()
