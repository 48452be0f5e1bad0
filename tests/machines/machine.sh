# Machines that boot: Debian in an overlay, systemd in a container of systemd-nspawn, an interface in the lab's VPC; for `.` in
# tests/runtimes.
#
#   machine NAME ─ leader (its systemd) ─ network namespace, new at each boot ─ eth0 ─ the lab's router
#
# The lab's own daemons leave by `weavers reset` before the first machine boots, and the machines take over interface and address.
# shellcheck shell=bash disable=SC2154 # set by tests/runtimes

declare -gA leader=() keeper=() nspawn=() address=()
machines=()
lab_pid=
boot_within=60 off_within=90

# ===== the VPC =====

# Three hosts of the lab, from which its own daemons are taken away.
start_vpc() {
  local name
  mkfifo "$work/leash"
  exec {leash}<>"$work/leash"
  "$binaries/examples/lab" --hosts 3 --hold <"$work/leash" >"$work/lab.log" 2>&1 {leash}>&- &
  lab_pid=$!
  eventually 60 grep -q '^The lab is up' "$work/lab.log" || { cat "$work/lab.log" >&2; return 1; }
  lab=$(sed -n 's|^ *\(/.*\)/h1 weavers status$|\1|p' "$work/lab.log")
  for name in h1 h2 h3; do
    "$lab/$name" weavers reset >>"$work/lab.log" 2>&1
  done
}

# What was started ends with the namespaces; the lab has a directory to remove before.
end_vpc() {
  local name
  for name in "${machines[@]}"; do
    kill -KILL "${nspawn[$name]:-$BASHPID}" 2>/dev/null || true
  done
  exec {leash}>&- || true
  [ -z "$lab_pid" ] || { kill "$lab_pid" && wait "$lab_pid"; } 2>/dev/null || true
}

# ===== machines =====

# Makes these machines, on one host of the VPC each, and boots them.
machine_start() {
  local name number=0
  for name; do
    number=$((number + 1))
    machines+=("$name")
    address[$name]=10.0.1.$((10 + number))
    machine_make "$name" "h$number"
    "${name}_machine" "$work/$name/root"
  done
  for name; do boot "$name"; done
  for name; do
    check "$name: systemd is up, no unit has failed" eventually "$boot_within" says running on "$name" systemctl is-system-running
    check "$name: weavers is ready" on "$name" weavers status --wait ready --timeout 60s
  done
}

# A root of its own, in which weavers is installed as weavers-operations(7) says.
machine_make() {
  local dir=$work/$1 host=$2 m=$work/$1/root
  mkdir -p "$dir"/{upper,overlay,root,docker,containerd,containers,share}
  mount -t overlay overlay -o "lowerdir=$root,upperdir=$dir/upper,workdir=$dir/overlay" "$m"
  install "$binaries/weavers" "$m/usr/bin/"
  install -D "$binaries/weavers-cni" "$m/opt/cni/bin/weavers"
  install -m 0644 packaging/systemd/weavers.service packaging/systemd/weavers-docker.socket "$m/etc/systemd/system/"
  install -D -m 0644 "$lab/hosts/$host/weave.toml" "$m/etc/weave/weave.toml"
  cp "$lab/$host" "$dir/enter-lab"
  # The lab's router says at once that it resolves no names.
  rm -f "$m/etc/resolv.conf"
  echo 'nameserver 10.0.1.1' >"$m/etc/resolv.conf"
  mkdir -p "$m/etc/systemd/system.conf.d"
  # Containers that outlive Docker are killed at shutdown, after this time.
  printf '[Manager]\nDefaultTimeoutStopSec=10s\n' >"$m/etc/systemd/system.conf.d/stop.conf"
  echo "$1" >"$m/etc/hostname"
  printf '127.0.0.1 localhost %s\n' "$1" >"$m/etc/hosts"
  # Nothing of a machine that is none: modules, a console, timers, a network that somebody else has set up.
  systemctl --quiet --root="$m" mask systemd-modules-load.service getty.target apt-daily.timer apt-daily-upgrade.timer \
    netavark-dhcp-proxy.socket 2>/dev/null
  systemctl --quiet --root="$m" disable docker.service docker.socket containerd.service 2>/dev/null
  systemctl --quiet --root="$m" enable weavers.service 2>/dev/null
  image "$m"
}

# An image without a registry: busybox, and a server that says who it is and who asks.
image() {
  local i=$work/image name
  [ -d "$i" ] || {
    mkdir -p "$i"/{bin,etc,proc,sys,dev,run,tmp,www/cgi-bin}
    cp "$root/bin/busybox" "$i/bin/"
    for name in sh sleep ip ping cat hostname httpd wget nslookup; do ln -s busybox "$i/bin/$name"; done
    printf '#!/bin/sh\necho\necho "${NAME:-$(hostname)} hears $REMOTE_ADDR"\n' >"$i/www/cgi-bin/name"
    chmod 755 "$i/www/cgi-bin/name"
    tar -C "$i" -cf "$work/image.tar" .
  }
  install -m 0644 "$work/image.tar" "$1/root/image.tar"
}

# Boots a machine. Its network namespace is new, as a machine's is that was off: only the interface goes from one to the next.
boot() {
  local name=$1 dir=$work/$1 old=${keeper[$1]:-}
  unshare --net sleep infinity &
  keeper[$name]=$!
  eventually 5 in_another_network $!
  if [ -n "$old" ]; then
    nsenter -t "$old" -n ip link set eth0 netns "${keeper[$name]}"
    kill "$old"
  else
    "$dir/enter-lab" sleep 30 &
    move_from_lab "$name" $!
  fi
  net "$name" ip -batch - <<LINES
link set lo up
addr add ${address[$name]}/24 dev eth0
link set eth0 up
route add default via 10.0.1.1 dev eth0
LINES
  (
    local hierarchy
    for hierarchy in /sys/fs/cgroup /sys/fs/cgroup/unified /sys/fs/cgroup/systemd; do
      [ ! -e "$hierarchy/cgroup.procs" ] || { mkdir -p "$hierarchy/$group.$name" && echo "$BASHPID" >"$hierarchy/$group.$name/cgroup.procs"; }
    done
    # Their own place in each hierarchy, since systemd takes the one that it finds itself in for all.
    export SYSTEMD_NSPAWN_UNIFIED_HIERARCHY=1 SYSTEMD_NSPAWN_API_VFS_WRITABLE=yes
    exec systemd-nspawn --quiet --directory="$dir/root" --boot --register=no --keep-unit --machine="weavers-$name" --console=pipe --resolv-conf=off \
      --network-namespace-path="/proc/${keeper[$name]}/ns/net" --capability=all --system-call-filter='bpf keyctl add_key @keyring' \
      --bind="$dir/docker:/var/lib/docker" --bind="$dir/containerd:/var/lib/containerd" --bind="$dir/containers:/var/lib/containers" \
      --bind="$work:/share" {leash}>&- </dev/null >>"$dir/console.log" 2>&1
  ) &
  nspawn[$name]=$!
  local until=$((SECONDS + boot_within))
  until leader[$name]=$(pgrep -P "${nspawn[$name]}" | head -n 1) && on "$name" systemctl show-environment >/dev/null 2>&1; do
    [ "$SECONDS" -lt "$until" ] || { echo "$name does not boot:"; tail "$dir/console.log"; return 1; }
    sleep 0.2
  done
}

in_another_network() { differ "$(readlink /proc/self/ns/net)" "$(readlink "/proc/$1/ns/net")"; }

# Takes the interface out of a host of the lab, of which this is a process.
move_from_lab() {
  local name=$1 entered=$2 lab_side
  eventually 5 pgrep -P "$entered"
  lab_side=$(pgrep -P "$entered" | head -n 1)
  eventually 5 nsenter -t "$lab_side" -n ip link show eth0
  nsenter -t "$lab_side" -n ip link set eth0 netns "${keeper[$name]}"
  kill "$lab_side"
}

# Switches a machine off as its owner does, or at once.
power_off() {
  on "$1" systemctl poweroff 2>/dev/null || true
  eventually "$off_within" ended "${nspawn[$1]}"
}
pull_the_plug() {
  kill -KILL "${leader[$1]}"
  eventually 10 ended "${nspawn[$1]}"
}
ended() { ! grep -qs '^State:[[:space:]]*[^Z]' "/proc/$1/status"; }

# Runs a command on a machine; in its network alone, with programs of this system.
on() {
  local name=$1
  shift
  nsenter -t "${leader[$name]}" -m -u -i -n -p -C -- /usr/bin/env -i HOME=/root LC_ALL=C.UTF-8 TERM=dumb \
    PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin "$@"
}
net() {
  local name=$1
  shift
  nsenter -t "${keeper[$name]}" -n -- "$@"
}

versions() {
  local package
  printf '\nDebian %s, %s; of the machines:\n' "$(cat "$root/etc/debian_version")" "$(uname -sr)"
  for package in systemd docker.io docker-compose containerd runc podman netavark crun containernetworking-plugins nftables; do
    printf '  %-28s %s\n' "$package" "$(on docker dpkg-query -W -f '${Version}' "$package")"
  done
  printf '  %-28s %s\n' weavers "$(on docker weavers --version)"
}

how_to_enter() {
  local name
  printf '\nThe machines are up until ctrl-C. From another shell:\n'
  for name in "${machines[@]}"; do
    printf '  nsenter -t %s -a    # %s\n' "$(sed -n 's/^NSpid:[[:space:]]*\([0-9]*\).*/\1/p' "/proc/${leader[$name]}/status")" "$name"
  done
}

# ===== packets =====

# One line a container of the cluster: MACHINE PID NAME ADDRESS
containers=$work/list
add_container() { echo "$*" >>"$containers"; }
drop_container() { sed -i "/ $1 /d" "$containers"; }

# In the network of a process of a machine.
in_net() {
  local name=$1 pid=$2
  shift 2
  on "$name" nsenter -t "$pid" -n "$@"
}

# ask MACHINE PID ADDRESS[:PORT]: what the server there says to that process
ask() { in_net "$1" "$2" curl -sS --max-time 5 "http://$3/cgi-bin/name"; }

# ping MACHINE PID ADDRESS: a packet as large as the MTU, in one piece
ping_large() { in_net "$1" "$2" ping -n -c 1 -W 2 -M 'do' -s 8972 "$3"; }

# Each container reaches each, with a packet as large as the MTU and by TCP, and is seen by its own address.
everybody() {
  local from pid name address to other
  while read -r from pid name address; do
    while read -r _ _ other to; do
      [ "$other" != "$name" ] || continue
      ping_large "$from" "$pid" "$to" >/dev/null || { echo "no ping from $name ($address) to $other ($to)"; return 1; }
      says "$other hears $address" ask "$from" "$pid" "$to" || { echo "from $name to $other ($to)"; return 1; }
    done <"$containers"
  done <"$containers"
}

attachments() { on "$1" weavers status --json | jq '.attachments | length'; }
used() { on "$1" weavers status --json | jq '.ipam.used'; }
# One is that of the canary.
links() { on "$1" sh -c 'ip -br link | grep -c "^w[vp]"' || true; }

attached_are() { same "$2" "$(attachments "$1")"; }

nothing_left() {
  same 0 "$(attachments "$1")" && same 0 "$(used "$1")" && same 1 "$(links "$1")"
}
