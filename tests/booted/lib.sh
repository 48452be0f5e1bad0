# Hosts that boot, for `.` in a bash script of tests/: systemd is process 1 of each, in a container of systemd-nspawn, and each has an interface in
# one VPC, a stand-in for EC2 (moto) and the instance metadata (ec2.py).
#
#   begin                   a directory for the run, and what cleans up after it
#   apart "$@"              runs the script once more in namespaces of its own, and ends with it: mounts, processes, interfaces go with them
#   make_root PACKAGE...    a root of Debian with these packages, kept for a week
#   make_python FILE        a Python environment with what a requirements file lists
#   start_vpc               the VPC, with the hosts a, b and c
#   make_host NAME          a disk for a host
#   boot NAME, halt NAME    its power button; the disk stays
#   on NAME COMMAND...      a command there
#
# Needs root. Nothing of the machine's own network is touched.
# shellcheck shell=bash disable=SC2034 # read by who sources this

. tests/needs.sh

booted_needs='
systemd-nspawn --version                            : systemd-container
mmdebstrap --version                                : mmdebstrap
ip -V                                               : iproute2
nsenter -V && unshare -V                            : util-linux
ping -V                                             : iputils-ping
/usr/bin/python3 -c "import ensurepip, venv"                : python3 python3-venv
'
# What every host has beside systemd: the package managers' own, and what Ansible and Salt need.
host_packages=(python3 python3-apt openssh-server ca-certificates rpm curl)
cache=${XDG_CACHE_HOME:-${HOME:-/root}/.cache}/weavers
days_kept=7
# Where hosts are, and what they ask.
declare -A address=([a]=10.0.1.11 [b]=10.0.1.12 [c]=10.0.1.13)
declare -A mac=([a]=02:00:00:00:00:11 [b]=02:00:00:00:00:12 [c]=02:00:00:00:00:13)
# Their subnet has IPv6, too: addresses there begin with this, and end with the last number of the other.
subnet6=fd00:10:0:1:
declare -A leader=() nspawn=()

say() { printf '\n## %s\n' "$*"; }
# A story, step by step: each is a function whose name says what it shows.
play() {
  local step
  for step in "$@"; do
    say "${step//_/ }"
    "$step"
  done
}

fail() {
  echo "FAILED: $*" >&2
  exit 1
}

# ===== namespaces of our own =====

# Whether this is the run in namespaces of our own.
is_apart() { [ -n "${booted_apart-}" ]; }

# A directory for the run; "$booted_work.NAME" are its, too.
begin() {
  [ "$(id -u)" -eq 0 ] || fail "only root can boot hosts"
  booted_cgroups=/sys/fs/cgroup/unified
  [ -d $booted_cgroups ] || booted_cgroups=/sys/fs/cgroup
  booted_work=$(mktemp -d "${TMPDIR:-/var/tmp}/weavers-booted.XXXXXX")
  booted_cgroups=$booted_cgroups/${booted_work##*/}
  trap clean_up EXIT
  trap 'exit 130' INT TERM HUP
  mkdir "$booted_cgroups"
}

# What no namespace ends: directories, and cgroups in each hierarchy, depth first. unshare heeds SIGKILL alone; all in its namespaces end with it,
# which takes a moment.
clean_up() {
  [ -z "${booted_inside-}" ] || { kill -KILL "$booted_inside" && wait "$booted_inside"; } 2>/dev/null || true
  for _ in $(seq 50); do
    find /sys/fs/cgroup -depth -type d -path "*/${booted_work##*/}*" -exec rmdir {} + 2>/dev/null || true
    [ -n "$(find /sys/fs/cgroup -maxdepth 2 -name "${booted_work##*/}" -print -quit)" ] || break
    sleep 0.1
  done
  rm -rf --one-file-system "$booted_work" "$booted_work".*
}

apart() {
  ! is_apart || return 0
  local status=0
  export booted_work booted_cgroups booted_apart=yes
  unshare --mount --net --pid --fork --kill-child --mount-proc "$0" "$@" &
  booted_inside=$!
  wait "$booted_inside" || status=$?
  booted_inside=
  exit "$status"
}

# ===== roots =====

# Where packages come from here, in lines that any apt reads.
sources() {
  # shellcheck disable=SC2016 # apt's own variables
  apt-get indextargets --format 'deb $(REPO_URI) $(RELEASE) $(COMPONENT)' 'Created-By: Packages' |
    awk -v suite="$1" 'index($3, suite) == 1' | sort -u
}

# Sets root_tar. The name tells what is in it, so that another list makes another root.
make_root() {
  local suite packages name draft
  suite=$(. /etc/os-release && echo "$VERSION_CODENAME")
  packages=$(printf '%s,' systemd systemd-sysv dbus iproute2 nftables procps iputils-ping "$@" | sed 's/,$//')
  name=booted-$suite-$(printf '%s' "$packages" | sha256sum | cut -c1-8).tar
  root_tar=$cache/$name
  [ -z "$(find "$root_tar" -mtime "-$days_kept" 2>/dev/null)" ] || return 0
  mkdir -p "$cache"
  draft=$(mktemp -d "${TMPDIR:-/var/tmp}/weavers-root.XXXXXX")
  sources "$suite" >"$draft/sources.list"
  apt-config dump Acquire | grep -v '""' >"$draft/apt.conf" || true
  echo "making a root of Debian or Ubuntu $suite" >&2
  mmdebstrap --quiet --mode=root --variant=minbase --include="$packages" --aptopt="$draft/apt.conf" \
    "$suite" "$draft/$name" - <"$draft/sources.list" >&2 && mv "$draft/$name" "$root_tar"
  rm -rf "$draft"
  [ -e "$root_tar" ] || fail "no root was made"
}

# Sets python. The name tells what is in it; one that was interrupted is made anew.
make_python() {
  local list=$1
  python=$cache/python-$(sha256sum "$list" | cut -c1-8)
  [ ! -e "$python/complete" ] || return 0
  echo "installing what $list lists" >&2
  rm -rf "$python"
  mkdir -p "$cache"
  # The system's own: hosts of the same Debian have it, too.
  /usr/bin/python3 -m venv "$python"
  "$python/bin/python" -m pip install --quiet --disable-pip-version-check --requirement "$list" >&2
  touch "$python/complete"
}

# ===== a VPC =====

# Its router is this namespace, and forwards by what the route tables of EC2 say (ec2.py).
start_vpc() {
  # In memory: dpkg waits for the disk after each file.
  mount -t tmpfs -o size=8g,mode=0755 tmpfs "$booted_work"
  ip link set lo up
  ip address add 169.254.169.254/32 dev lo
  ip link add vpc type bridge
  ip address add 10.0.1.1/24 dev vpc
  ip address add $subnet6:1/64 dev vpc nodad
  ip link set vpc up
  # Hosts have one subnet: what goes out where it came in is no mistake here.
  sysctl -qw net.ipv4.ip_forward=1 net.ipv4.conf.all.send_redirects=0 net.ipv4.conf.vpc.send_redirects=0 net.ipv4.conf.all.rp_filter=0
  sysctl -qw net.ipv6.conf.all.forwarding=1
  "$python/bin/python" tests/booted/ec2.py $subnet6 "${address[a]}=${mac[a]}" "${address[b]}=${mac[b]}" "${address[c]}=${mac[c]}" \
    >"$booted_work/ec2.log" 2>&1 &
  for _ in $(seq 900); do
    ! grep -q '^ready' "$booted_work/ec2.log" || return 0
    sleep 0.1
  done
  cat "$booted_work/ec2.log" >&2
  fail "the stand-in for EC2 did not start"
}

# One question to the stand-in: `table` prints its routes, `drop CIDR` deletes one.
ec2() { curl -fsS "http://169.254.169.254/test/$1"; }

# ===== hosts =====

# One root is unpacked; each host has a layer of its own above it.
make_host() {
  local name=$1 disk=$booted_work/$1
  if [ ! -d "$booted_work/root" ]; then
    mkdir "$booted_work/root"
    tar -xf "$root_tar" -C "$booted_work/root"
  fi
  mkdir -p "$disk/up" "$disk/work" "$disk/root"
  mount -t overlay overlay -o "lowerdir=$booted_work/root,upperdir=$disk/up,workdir=$disk/work" "$disk/root"
  echo "$name" >"$disk/root/etc/hostname"
  printf '127.0.0.1 localhost\n%s a\n%s b\n%s c\n' "${address[a]}" "${address[b]}" "${address[c]}" >"$disk/root/etc/hosts"
  systemd-id128 new >"$disk/root/etc/machine-id"
  # It would wait for an interface that it configures, and there is none.
  ln -sf /dev/null "$disk/root/etc/systemd/system/systemd-networkd-wait-online.service"
}

disk() { echo "$booted_work/$1/root"; }

# A cgroup for each: without systemd outside they would share one, and one would end the other's processes.
boot() {
  local name=$1 state=''
  mkdir -p "$booted_cgroups/$name"
  # shellcheck disable=SC2016 # of the inner shell
  setsid bash -c 'echo $$ >"$0/cgroup.procs"; exec "$@"' "$booted_cgroups/$name" \
    env SYSTEMD_NSPAWN_UNIFIED_HIERARCHY=1 systemd-nspawn --quiet --register=no --keep-unit --private-network --link-journal=no \
    --hostname="$name" --machine="$name" --directory="$booted_work/$name/root" "${nspawn_options[@]}" --console=pipe --boot \
    </dev/null >"$booted_work/$name/console" 2>&1 &
  nspawn[$name]=$!
  for _ in $(seq 300); do
    sleep 0.1
    kill -0 "${nspawn[$name]}" 2>/dev/null || break
    # For a moment nspawn's first child is a helper of its own.
    leader[$name]=$(pgrep -P "${nspawn[$name]}" -x systemd) || continue
    plug_in "$name"
    break
  done
  for _ in $(seq 600); do
    kill -0 "${nspawn[$name]}" 2>/dev/null || break
    state=$(on "$name" systemctl is-system-running 2>/dev/null) || true
    case $state in
    running | degraded)
      # IPv6 looks for others with its address for a moment.
      [ -n "$(on "$name" ip -6 address show tentative)" ] || return 0
      ;;
    esac
    sleep 0.1
  done
  tail -n 40 "$booted_work/$name/console" >&2
  fail "$name did not boot: ${state:-it ended}"
}
nspawn_options=()

# Its interface in the VPC; a namespace of its own is new at each boot.
plug_in() {
  local name=$1
  ip link delete "vpc-$name" 2>/dev/null || true
  ip link add "vpc-$name" master vpc type veth peer name eth0 address "${mac[$name]}" netns "${leader[$name]}"
  ip link set "vpc-$name" up
  nsenter -t "${leader[$name]}" -n sh -ec "ip link set lo up; ip address add ${address[$name]}/24 dev eth0; ip link set eth0 up
    ip address add $subnet6:${address[$name]##*.}/64 dev eth0 nodad
    ip route add default via 10.0.1.1; ip route add default via $subnet6:1"
}

halt() {
  local name=$1
  kill -s RTMIN+4 "${leader[$name]}"
  for _ in $(seq 300); do
    kill -0 "${nspawn[$name]}" 2>/dev/null || break
    sleep 0.1
  done
  wait "${nspawn[$name]}" 2>/dev/null || true
  find "$booted_cgroups/$name" -mindepth 1 -depth -type d -exec rmdir {} + 2>/dev/null || true
}

# With nothing of this environment: a TMPDIR of ours is none of its.
on() {
  local name=$1
  shift
  [ -n "${leader[$name]-}" ] || fail "$name does not run"
  nsenter -at "${leader[$name]}" env -i HOME=/root LC_ALL=C.UTF-8 TERM=dumb \
    PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin "$@"
}

# Repeats a command until it succeeds.
until_ok() {
  local seconds=$1 end=$((SECONDS + $1))
  shift
  until "$@" >/dev/null 2>&1; do
    [ $SECONDS -lt $end ] || fail "not within $seconds s: $*"
    sleep 0.2
  done
}
