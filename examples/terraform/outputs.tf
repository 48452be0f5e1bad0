output "launch_template_id" {
  value = aws_launch_template.hosts.id
}

output "security_group_id" {
  value = aws_security_group.hosts.id
}

output "instance_profile_arn" {
  value = aws_iam_instance_profile.hosts.arn
}
