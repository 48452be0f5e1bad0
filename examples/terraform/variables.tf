variable "vpc_id" {
  type = string
}

variable "host_cidr" {
  type        = string
  description = "CIDR of the VPC, for ICMP"
}

variable "route_table_ids" {
  type        = set(string)
  description = "Tables that the hosts may write to: those of the subnets that hosts live in. They must have no inline `route` blocks"
}

variable "container_range" {
  type        = string
  default     = "10.32.0.0/12"
  description = "Addresses of containers, outside every CIDR of the VPC and of the networks it is connected to"
}

variable "cluster" {
  type        = string
  default     = "prod"
  description = "Hosts find each other by the tag weave-cluster with this value"
}

variable "hosts" {
  type        = number
  default     = 3
  description = "How many hosts found the cluster"
}

variable "package_url" {
  type        = string
  description = "Where hosts get the rpm from"
}

variable "image_id" {
  type        = string
  description = "An image of Amazon Linux 2023"
}

variable "instance_type" {
  type    = string
  default = "t3.small"
}
