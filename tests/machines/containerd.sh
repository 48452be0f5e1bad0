# containerd 1.7, by its own client and by the Kubernetes container runtime interface; for `.` in tests/runtimes.
# shellcheck shell=bash disable=SC2154 # set by tests/runtimes and tests/machines/machine.sh

containerd_machine() {
  # As weavers-cni(7) has it for Debian, and with the plugins of its package, among which the interface looks for all.
  install -D "$binaries/weavers-cni" "$1/usr/lib/cni/weavers"
  ln -sf ../../../usr/lib/cni/portmap "$1/opt/cni/bin/portmap"
  cat >>"$1/etc/weave/weave.toml" <<'TOML'

[cni]
conf_dir = "/etc/cni/net.d"
nomad_conf_dir = "/opt/cni/config"
plugins = ["portmap"]
TOML
  mkdir -p "$1/etc/cni/net.d" "$1/opt/cni/config" "$1/etc/containerd"
  cat >"$1/etc/containerd/config.toml" <<'TOML'
version = 2
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "docker.io/library/bb:1"
  disable_apparmor = true
  restrict_oom_score_adj = true
  [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
    runtime_type = "io.containerd.runc.v2"
    [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
      BinaryName = "/usr/local/sbin/runc-without-limits"
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "/usr/lib/cni"
    conf_dir = "/etc/cni/net.d"
TOML
  cat >"$1/usr/local/sbin/runc-without-limits" <<'SH'
#!/bin/sh
# A machine in a container may not have all controllers, and this interface sets limits always.
for word; do
  [ "$before" != --bundle ] || { jq 'del(.linux.resources)' "$word/config.json" >"$word/new" && mv "$word/new" "$word/config.json"; }
  before=$word
done
exec runc "$@"
SH
  chmod 755 "$1/usr/local/sbin/runc-without-limits"
  systemctl --quiet --root="$1" enable containerd.service 2>/dev/null
}

# The same for this client.
no_limits=(--cpu-shares 0)
ctr() { on containerd ctr "$@"; }
task_pid() { ctr task ls | awk -v name="$1" '$1 == name { print $2 }'; }
# The address that weavers has given to a container of which its key or its namespace tells.
cni_address() { on containerd weavers status --json | jq -r --arg id "$1" '.attachments[] | select(.ident + " " + .netns | contains($id)) | .address'; }

cri() { "$cache/cri/bin/python3" tests/machines/cri.py "/proc/${leader[containerd]}/root/run/containerd/containerd.sock" "$@"; }

step_containerd() {
  local name
  check "the conflist is there" eventually 20 on containerd test -f /etc/cni/net.d/10-weavers.conflist
  # It asks for STATUS before each DEL where a version has it, and leaves containers undeleted.
  check "  one for Nomad, of a version without STATUS" says '"1.0.0"' on containerd sh -c 'jq -c "[.cniVersion, .cniVersions]" /opt/cni/config/*weavers.conflist'
  docker image inspect bb:1 >/dev/null 2>&1 || check "Docker has the image" docker_image
  check "the image comes from Docker" docker save -o /share/bb.tar bb:1
  check "  and is imported" ctr images import /share/bb.tar
  check "  for the interface, too" ctr -n k8s.io images import /share/bb.tar
  check "a container, as in weavers-cni(7)" says "169.254.1.1" ctr run --rm --cni "${no_limits[@]}" docker.io/library/bb:1 t0 ip route
  for name in t1 t2; do
    check "one that stays" ctr run -d --cni "${no_limits[@]}" --env "NAME=$name" docker.io/library/bb:1 "$name" httpd -f -p 0.0.0.0:80 -h /www
    add_container containerd "$(task_pid "$name")" "$name" "$(cni_address "default-$name")"
  done
  check "they are known by their keys" says "cni/weavers/default-t1/eth0" on containerd weavers status
  again
  cri_pods
}

# What a runtime runs for one container: cni VERB ID NETNS
cni() {
  on containerd env CNI_COMMAND="$1" CNI_CONTAINERID="$2" CNI_NETNS="$3" CNI_IFNAME=eth0 CNI_PATH=/opt/cni/bin CNI_ARGS= \
    sh -c 'printf %s "$1" | /opt/cni/bin/weavers' cni '{"cniVersion": "1.0.0", "name": "weavers", "type": "weavers"}'
}

# Containers of which DEL is said late, twice, with another's namespace, or never.
again() {
  local first
  check "two namespaces" on containerd sh -ec 'for n in one two; do ip netns add $n; ip -n $n link set lo up; done'
  check "  are added" says 169.254.1.1 cni ADD one /run/netns/one
  check "  both" says 169.254.1.1 cni ADD two /run/netns/two
  first=$(cni ADD one /run/netns/one)
  check "ADD again without DEL, as Nomad does it, is answered the same" same "$first" "$(cni ADD one /run/netns/one)"
  check "DEL with the namespace of another" cni DEL one /run/netns/two
  check "  leaves that one alone" on docker ping -n -c 1 -W 2 "$(cni_address weavers/two)"
  check "  and frees its own address" attached_are containerd 3
  check "DEL without a namespace" cni DEL two ""
  check "  twice" cni DEL two ""
  check "the namespaces go" on containerd sh -ec 'ip netns del one; ip netns del two'
  check "  DEL succeeds all the same" cni DEL two /run/netns/two
  check "  and nothing is left" attached_are containerd 2
}

# A plugin behind ours fails once, as one does that loses a race for a port.
flaky_chain() {
  on containerd sh -ec 'cat >/usr/lib/cni/flaky; chmod 755 /usr/lib/cni/flaky' <<'SH'
#!/bin/sh
case $CNI_COMMAND in
ADD)
  mkdir /run/flaky 2>/dev/null && { echo '{"cniVersion": "1.0.0", "code": 11, "msg": "try again"}'; exit 1; }
  jq .prevResult
  ;;
VERSION) echo '{"cniVersion": "1.0.0", "supportedVersions": ["1.0.0"]}' ;;
esac
SH
  on containerd tee /etc/cni/net.d/05-flaky.conflist >/dev/null <<'JSON'
{"cniVersion": "1.0.0", "name": "flaky", "plugins": [{"type": "weavers"}, {"type": "flaky"}]}
JSON
  sleep 1
  check "a pod whose chain fails behind weavers" refused "try again" cri run pod4 8084
  check "  leaves nothing" attached_are containerd "$1"
  check "  and comes up when it is tried again" cri run pod4 8084
  check "  by that chain" says cni/flaky/ on containerd weavers status --json
  check "  and goes" cri stop pod4
  on containerd rm /etc/cni/net.d/05-flaky.conflist /usr/lib/cni/flaky
  sleep 1
}

# Containers that nobody will have deleted when the machine boots again.
fifty() {
  local number
  for number in $(seq 50); do
    on containerd ip netns add "fifty$number" && cni ADD "fifty$number" "/run/netns/fifty$number" >/dev/null || return 1
  done
}

cri_pods() {
  local ip
  [ -x "$cache/cri/bin/python3" ] || { echo "not shown: the container runtime interface, for want of its client"; return 0; }
  check "the interface finds its network ready" says "NetworkReady True" cri status
  check "a pod with a port" cri run pod1 8080
  ip=$(cri address pod1)
  check "  has an address of weavers" same "$ip" "$(cni_address "$(cri id pod1)")"
  check "  its port is reached" says "pod1 hears" net docker curl -sS --max-time 5 "http://${address[containerd]}:8080/cgi-bin/name"
  add_container containerd "$(cri pid pod1)" pod1 "$ip"
  flaky_chain 3
  check "containerd restarts" on containerd systemctl restart containerd.service
  check "  the pod is there as before" eventually 10 same "$ip" "$(cri address pod1)"
  check "another pod" cri run pod2 8082
  check "weavers is killed" on containerd systemctl kill -s KILL weavers.service
  check "  a pod goes all the same" cri stop pod2
  check "weavers and its unit are stopped" on containerd systemctl stop weavers.service
  check "  another pod is refused, with the way out" refused "systemctl start weavers" cri run pod3 8083
  check "weavers is back" on containerd systemctl start weavers.service
  check "  and ready" on containerd weavers status --wait ready --timeout 30s
  check "  and so is a pod" cri run pod3 8083
  check "it goes" cri stop pod3
}

# Containers of all kinds on all machines.
step_everybody() {
  check "a namespace of no runtime is attached by hand" attach_bare
  add_container containerd "$(on containerd ip netns pids bare | head -n 1)" bare "$(cni_address /run/netns/bare)"
  check "each of $(wc -l <"$containers") containers reaches each, with packets as large as the MTU and by TCP" everybody
}

attach_bare() {
  on containerd sh -ec 'ip netns add bare; ip -n bare link set lo up; tar -C /tmp -xf /root/image.tar ./www
    ip netns exec bare unshare --uts sh -c "hostname bare; exec busybox httpd -p 0.0.0.0:80 -h /tmp/www"
    weavers attach /run/netns/bare'
}
