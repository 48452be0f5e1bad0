# What the lab and the tests need of a machine, Rust and other programs; for `.` in a shell script.
#
#   meet "$lab_needs"      installs what is missing where it is root on Debian or Ubuntu, otherwise names it
#   meet_rust              names it
#
# A need is tried, since a name says little: gcc may be there without a libc to link with, python3 without venv.
# shellcheck shell=sh disable=SC2034 # read by who sources this

PATH="$PATH:/usr/sbin:/sbin:${CARGO_HOME:-${HOME:-/root}/.cargo}/bin"

# What is tried, and the packages that bring it.
lab_needs='
ip -V                                               : iproute2
nft -v                                              : nftables
ping -V                                             : iputils-ping
unshare -V && nsenter -V                            : util-linux
hostname -V                                         : hostname
wg --version                                        : wireguard-tools
has_wireguard                                       : wireguard-go
links_a_program                                     : gcc libc6-dev
'
# Scenarios that play a container runtime.
cni_needs='
go version                                          : golang-go
[ -d /usr/share/gocode/src/github.com/containernetworking/cni/libcni ] : golang-github-appc-cni-dev
[ -x /usr/lib/cni/portmap ]                         : containernetworking-plugins
iptables -V                                         : iptables
'
# Those with a real Docker, containerd, Podman.
docker_needs='
command -v dockerd && docker --version              : docker.io
containerd --version && runc --version              : containerd runc
busybox --list                                      : busybox-static
iptables -V                                         : iptables
'
podman_needs='
podman --version && conmon --version                : podman conmon
runc --version                                      : runc
[ -x /usr/lib/cni/portmap ]                         : containernetworking-plugins
busybox --list                                      : busybox-static
iptables -V                                         : iptables
'
# Machines that boot: tests/runtimes.
machine_needs='
mmdebstrap --version                                : mmdebstrap
systemd-nspawn --version                            : systemd-container
curl --version                                      : curl
jq --version                                        : jq
python3 -c "import ensurepip, venv"                 : python3 python3-venv
'
test_needs="$lab_needs$cni_needs$docker_needs$podman_needs"'
git --version                                       : git
[ -d /usr/share/gocode/src/github.com/weaveworks/mesh ] : golang-github-weaveworks-mesh-dev
[ -d /usr/share/gocode/src/github.com/boltdb/bolt ] : golang-github-boltdb-bolt-dev
python3 -c "import ensurepip, venv"                 : python3 python3-venv
'

links_a_program() {
    program=$(mktemp) || return 1
    printf '#include <stdio.h>\nint main(void) { return puts("") < 0; }\n' | cc -x c -o "$program" -
    set -- $?
    rm -f "$program"
    return "$1"
}

# By the kernel, or by a program in its place.
has_wireguard() {
    command -v wireguard-go || unshare --net ip link add wgtry type wireguard || unshare --net --user --map-root-user ip link add wgtry type wireguard
}

# The packages of the needs that are not met.
missing() {
    printf '%s\n' "$1" | while IFS=: read -r try packages; do
        (eval "$try") </dev/null >/dev/null 2>&1 || printf '%s' "$packages"
    done
}

meet() {
    packages=$(missing "$1")
    [ -n "$packages" ] || return 0
    if [ "$(id -u)" -ne 0 ] || ! command -v apt-get >/dev/null; then
        echo "missing, and only root on Debian or Ubuntu can install it here; as root: apt-get install$packages" >&2
        return 1
    fi
    echo "installing$packages" >&2
    # The package lists may be absent or old; they are fetched only if the first attempt fails.
    # shellcheck disable=SC2086 # a list of words
    apt install -y --no-install-recommends $packages 2>/dev/null ||
        { apt update && apt install -y --no-install-recommends $packages; } || return 1
    packages=$(missing "$1")
    [ -z "$packages" ] || echo "still missing although installed:$packages" >&2
    [ -z "$packages" ]
}

apt() {
    DEBIAN_FRONTEND=noninteractive apt-get -qq -o DPkg::Lock::Timeout=300 "$@" >&2
}

meet_rust() {
    command -v cargo >/dev/null && return
    version=$(sed -n 's/^rust-version = "\(.*\)"/\1/p' Cargo.toml)
    echo "cargo is missing: install Rust $version or newer, see https://rustup.rs" >&2
    return 1
}
