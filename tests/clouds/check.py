"""examples/cloudformation, examples/terraform and examples/cloud-init: the stack is created in moto, and every weave.toml that a host would find is
validated by weavers. The permissions of each are those that weavers-ec2(7) lists.

Argument: the program weavers.
"""

import base64
import json
import os
import pathlib
import re
import subprocess
import sys
import tempfile

os.environ.update(AWS_ACCESS_KEY_ID="test", AWS_SECRET_ACCESS_KEY="test", AWS_DEFAULT_REGION="eu-west-1")

import boto3
import hcl2
import yaml
from moto import mock_aws

EXAMPLES = pathlib.Path("examples")
WEAVERS = sys.argv[1]


def listed_actions():
    policy = re.search(r"```json\n(.*?\"Statement\".*?)```", pathlib.Path("packaging/man/weavers-ec2.7.md").read_text(), re.S).group(1)
    return {action for one in json.loads(policy)["Statement"] for action in as_list(one["Action"])}


def as_list(value):
    return value if isinstance(value, list) else [value]


def check(what, found, wanted):
    assert found == wanted, f"{what}: {found}, not {wanted}"
    print(f"{what}: as it should be")


def check_user_data(what, text):
    """It is YAML of cloud-init, and its weave.toml is valid."""
    assert text.startswith("#cloud-config\n"), f"{what} does not begin with #cloud-config"
    data = yaml.safe_load(text)
    check(f"{what}: keys", data.keys() - {"write_files", "packages", "package_update", "runcmd"}, set())
    (file,) = data["write_files"]
    check(f"{what}: file", file["path"], "/etc/weave/weave.toml")
    with tempfile.NamedTemporaryFile("w", suffix=".toml") as written:
        written.write(file["content"])
        written.flush()
        subprocess.run([WEAVERS, "validate", written.name], check=True, stdout=subprocess.DEVNULL)
    check(f"{what}: last command", data["runcmd"][-1], ["systemctl", "enable", "--now", "weavers"])


# ===== CloudFormation =====


@mock_aws
def check_cloudformation():
    template = EXAMPLES / "cloudformation/weavers.yml"
    subprocess.run([pathlib.Path(sys.executable).with_name("cfn-lint"), "--non-zero-exit-code", "informational", template], check=True)
    ec2, stacks = boto3.client("ec2"), boto3.client("cloudformation")
    vpc = ec2.create_vpc(CidrBlock="10.0.0.0/16")["Vpc"]["VpcId"]
    subnets = [
        ec2.create_subnet(VpcId=vpc, CidrBlock=f"10.0.{n}.0/24", AvailabilityZone=f"eu-west-1{zone}")["Subnet"]["SubnetId"]
        for n, zone in enumerate("abc")
    ]
    parameters = {"VpcId": vpc, "SubnetIds": ",".join(subnets), "HostCidr": "10.0.0.0/16", "PackageUrl": "https://packages.example.net/weavers.rpm"}
    stacks.create_stack(
        StackName="weavers", TemplateBody=template.read_text(), Capabilities=["CAPABILITY_IAM"],
        Parameters=[{"ParameterKey": key, "ParameterValue": value} for key, value in parameters.items()],
    )
    stack = stacks.describe_stacks(StackName="weavers")["Stacks"][0]
    check("stack", stack["StackStatus"], "CREATE_COMPLETE")
    outputs = {one["OutputKey"]: one["OutputValue"] for one in stack["Outputs"]}
    check_group(ec2, outputs["SecurityGroup"])
    policy = boto3.client("iam").get_role_policy(RoleName=outputs["Role"], PolicyName="weavers")["PolicyDocument"]
    # moto gives the text that it keeps, which is Python's rather than JSON.
    policy = yaml.safe_load(policy) if isinstance(policy, str) else policy
    check("stack: permissions", {action for one in policy["Statement"] for action in as_list(one["Action"])}, listed_actions())
    version = ec2.describe_launch_template_versions(LaunchTemplateId=outputs["LaunchTemplate"])["LaunchTemplateVersions"][0]
    check_user_data("stack: user data", base64.b64decode(version["LaunchTemplateData"]["UserData"]).decode())
    hosts = [one for all in ec2.describe_instances()["Reservations"] for one in all["Instances"]]
    check("stack: hosts", len(hosts), 3)
    check("stack: tags", {tag["Value"] for one in hosts for tag in one["Tags"] if tag["Key"] == "weave-cluster"}, {"prod"})


def check_group(ec2, group):
    (found,) = ec2.describe_security_groups(GroupIds=[group])["SecurityGroups"]
    rules = {
        (rule["IpProtocol"], rule.get("FromPort"), rule.get("ToPort"), source)
        for rule in found["IpPermissions"]
        for source in [one["CidrIp"] for one in rule["IpRanges"]] + [one["GroupId"] for one in rule["UserIdGroupPairs"]]
    }
    wanted = {("tcp", 6783, 6783, group), ("-1", None, None, "10.32.0.0/12"), ("icmp", 3, 4, "10.0.0.0/16")}
    check("stack: security group", {(name, *(None if name == "-1" else port for port in ports), by) for name, *ports, by in rules}, wanted)


# ===== Terraform: parsed, since no Terraform and no provider can be installed everywhere =====


def check_terraform():
    place = EXAMPLES / "terraform"
    texts = {path: path.read_text() for path in sorted(place.glob("*.tf"))}
    parsed = {path: hcl2.loads(text) for path, text in texts.items()}
    declared = {plain(name) for one in parsed.values() for variable in one.get("variable", []) for name in variable}
    used = set(re.findall(r"\bvar\.(\w+)", "".join(texts.values())))
    check("terraform: variables", used, declared)
    actions = set(re.findall(r"\"(ec2:[A-Z]\w+)\"", texts[place / "main.tf"])) - {"ec2:Vpc"}
    check("terraform: permissions", actions, listed_actions())
    given = dict(container_range="10.32.0.0/12", hosts="3", cluster="prod", package_url="https://packages.example.net/weavers.rpm")
    user_data = (place / "user-data.yml.tftpl").read_text()
    check("terraform: variables of the user data", set(re.findall(r"\$\{(\w+)\}", user_data)), given.keys())
    check_user_data("terraform: user data", re.sub(r"\$\{(\w+)\}", lambda match: given[match[1]], user_data))


def plain(name):
    """hcl2 keeps the quotes of labels."""
    return name.strip('"')


check_cloudformation()
check_terraform()
check_user_data("cloud-init", (EXAMPLES / "cloud-init/user-data.yml").read_text())
