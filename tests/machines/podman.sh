# Podman 5 with netavark, which calls weavers as its plugin; for `.` in tests/runtimes.
# shellcheck shell=bash disable=SC2154 # set by tests/runtimes and tests/machines/machine.sh

podman_machine() {
  install -D "$binaries/weavers-cni" "$1/usr/libexec/netavark/weavers"
  mkdir -p "$1/etc/containers"
  # A machine in a container may have neither CAP_SYS_RESOURCE nor all controllers: no limits are set.
  cat >"$1/etc/containers/containers.conf" <<'TOML'
[containers]
default_ulimits = ["nofile=1024:1024", "nproc=1024:1024"]
pids_limit = 0
TOML
}

podman() { on podman podman "$@"; }

podman_run() {
  local name=$1
  shift
  podman run -d --name "$name" --hostname "$name" --network w "$@" localhost/bb:1 >/dev/null
}

podman_pid() { podman inspect -f '{{.State.Pid}}' "$1"; }
podman_address() { podman inspect -f '{{(index .NetworkSettings.Networks "w").IPAddress}}' "$1"; }
podman_know() { add_container podman "$(podman_pid "$1")" "$1" "$(podman_address "$1")"; }

step_podman() {
  local ip mac=02:42:ac:11:00:77 host=${address[podman]} pid
  check "the image is imported" podman import --change 'CMD ["httpd","-f","-p","0.0.0.0:80","-h","/www"]' --change 'ENV PATH=/bin' --change 'STOPSIGNAL SIGKILL' /root/image.tar bb:1
  check "a network, as in weavers-podman(7)" podman network create --driver weavers w
  check "a network with an unknown option is refused" refused "is not known" podman network create --driver weavers -o mut=1400 x
  check "  one outside of the range" refused "outside [ipam] range" podman network create --driver weavers --subnet 172.30.0.0/16 x
  check "  one of IPv6" refused "IPv6" podman network create --driver weavers --ipv6 x
  check "  one without a way out" refused "leave --internal out" podman network create --driver weavers --internal x
  check "a container with ports" podman_run pweb -p 8080:80 -p 8090-8091:80-81
  check "another" podman_run pother
  ip=$(free_address podman 4660)
  check "a wanted address and MAC address are given" podman_run pwish --ip "$ip" --mac-address "$mac"
  check "  the address" same "$ip" "$(podman_address pwish)"
  check "  the MAC address, in the container" says "$mac" podman exec pwish ip link show eth0
  check "  where it is reached" says "pwish hears $(podman_address pother)" ask podman "$(podman_pid pother)" "$ip"
  check "the address is given once" refused "already" podman_run plate --ip "$ip"
  podman rm -f plate >/dev/null 2>&1 || true
  check "a port, from another machine" says "pweb hears ${address[docker]}" net docker curl -sS --max-time 5 "http://$host:8080/cgi-bin/name"
  check "  from the host itself" says "pweb hears" net podman curl -sS --max-time 5 "http://$host:8080/cgi-bin/name"
  check "  by 127.0.0.1" says "pweb hears" net podman curl -sS --max-time 5 "http://127.0.0.1:8080/cgi-bin/name"
  check "  from the container itself" says "pweb hears" ask podman "$(podman_pid pweb)" "$host:8080"
  check "  one of a range" says "pweb hears" net docker curl -sS --max-time 5 "http://$host:8090/cgi-bin/name"
  check "a port that another has is refused, by Podman itself" refused "address already in use" podman_run plate -p 8080:80
  podman rm -f plate >/dev/null 2>&1 || true
  check "\`weavers status\` shows names and ports" says "8080->80/tcp" on podman weavers status
  check "a restart" podman restart -t 0 pweb pwish
  check "  keeps the address that was asked for" same "$ip" "$(podman_address pwish)"
  check "  and the port" says "pweb hears" net docker curl -sS --max-time 5 "http://$host:8080/cgi-bin/name"
  pid=$(podman_pid pother) ip=$(podman_address pother)
  check "networks are reloaded under a running container" podman network reload pother
  check "  which is the same process" same "$pid" "$(podman_pid pother)"
  check "  and keeps its address" same "$ip" "$(podman_address pother)"
  check "  and is reached" says "pother hears" ask podman "$(podman_pid pweb)" "$ip"
  check "a running container is disconnected" podman network disconnect w pother
  check "  and connected again" podman network connect w pother
  check "  and is reached" says "pother hears" ask podman "$(podman_pid pweb)" "$(podman_address pother)"
  check "a container of two networks" podman_run ptwo --network podman
  check "  is reached by that of weavers" says "ptwo hears" ask podman "$(podman_pid pweb)" "$(podman_address ptwo)"
  check "  and goes" podman rm -f -t 0 ptwo
  check "a network with an MTU of its own" podman network create --driver weavers -o mtu=1400 narrow
  check "  has it" says "mtu 1400" podman run --rm --network narrow localhost/bb:1 ip link show eth0
  check "a container that ends by itself leaves nothing" says "mtu 9000" podman run --rm --network w localhost/bb:1 ip link show eth0
  podman_know pweb && podman_know pother && podman_know pwish
  check "  its address is free again" same 3 "$(attachments podman)"
}
