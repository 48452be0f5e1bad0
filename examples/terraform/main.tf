# What hosts of weavers need in a VPC that is there, and a launch template for them.
#
# Terraform removes routes of weavers from an `aws_route_table` with inline `route` blocks at the next apply: write `aws_route` resources
# instead, or `lifecycle { ignore_changes = [route] }`.

data "aws_caller_identity" "this" {}
data "aws_partition" "this" {}
data "aws_region" "this" {}

locals {
  arn = "arn:${data.aws_partition.this.partition}:ec2:${data.aws_region.this.name}:${data.aws_caller_identity.this.account_id}"
}

data "aws_iam_policy_document" "assume" {
  statement {
    actions = ["sts:AssumeRole"]
    principals {
      type        = "Service"
      identifiers = ["ec2.amazonaws.com"]
    }
  }
}

data "aws_iam_policy_document" "weavers" {
  statement {
    sid       = "Look"
    actions   = ["ec2:DescribeInstances", "ec2:DescribeRouteTables"]
    resources = ["*"]
  }
  statement {
    sid       = "KeepRoutes"
    actions   = ["ec2:CreateRoute", "ec2:ReplaceRoute", "ec2:DeleteRoute"]
    resources = [for id in var.route_table_ids : "${local.arn}:route-table/${id}"]
  }
  # A launch template cannot turn off the source/destination check: each host does, of its own interface.
  statement {
    sid       = "ForwardPackets"
    actions   = ["ec2:ModifyNetworkInterfaceAttribute"]
    resources = ["${local.arn}:network-interface/*"]
    condition {
      test     = "ArnEquals"
      variable = "ec2:Vpc"
      values   = ["${local.arn}:vpc/${var.vpc_id}"]
    }
  }
}

resource "aws_iam_role" "hosts" {
  name_prefix        = "weavers-"
  assume_role_policy = data.aws_iam_policy_document.assume.json
}

resource "aws_iam_role_policy" "hosts" {
  name   = "weavers"
  role   = aws_iam_role.hosts.id
  policy = data.aws_iam_policy_document.weavers.json
}

resource "aws_iam_instance_profile" "hosts" {
  name_prefix = "weavers-"
  role        = aws_iam_role.hosts.name
}

resource "aws_security_group" "hosts" {
  name_prefix = "weavers-"
  description = "Hosts of weavers"
  vpc_id      = var.vpc_id

  ingress {
    description = "peers of weavers"
    protocol    = "tcp"
    from_port   = 6783
    to_port     = 6783
    self        = true
  }
  # By the range: a rule that names a security group matches addresses of hosts only.
  ingress {
    description = "what containers say to each other"
    protocol    = "-1"
    from_port   = 0
    to_port     = 0
    cidr_blocks = [var.container_range]
  }
  ingress {
    description = "fragmentation needed"
    protocol    = "icmp"
    from_port   = 3
    to_port     = 4
    cidr_blocks = [var.host_cidr]
  }
  egress {
    protocol    = "-1"
    from_port   = 0
    to_port     = 0
    cidr_blocks = ["0.0.0.0/0"]
  }
}

resource "aws_launch_template" "hosts" {
  name_prefix            = "weavers-"
  image_id               = var.image_id
  instance_type          = var.instance_type
  vpc_security_group_ids = [aws_security_group.hosts.id]
  user_data = base64encode(templatefile("${path.module}/user-data.yml.tftpl", {
    container_range = var.container_range
    hosts           = var.hosts
    cluster         = var.cluster
    package_url     = var.package_url
  }))

  iam_instance_profile {
    arn = aws_iam_instance_profile.hosts.arn
  }
  # Containers are a hop further away, and do not reach the role of the host.
  metadata_options {
    http_endpoint               = "enabled"
    http_tokens                 = "required"
    http_put_response_hop_limit = 1
  }
  tag_specifications {
    resource_type = "instance"
    tags          = { weave-cluster = var.cluster }
  }
}
