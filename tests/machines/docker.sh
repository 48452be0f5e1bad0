# Docker 26: networks, addresses, names, ports, compose; for `.` in tests/runtimes.
# shellcheck shell=bash disable=SC2154 # set by tests/runtimes and tests/machines/machine.sh

docker_cidr=10.32.0.0/12

docker_machine() {
  systemctl --quiet --root="$1" enable docker.service docker.socket containerd.service weavers-docker.socket 2>/dev/null
  mkdir -p "$1/etc/docker" "$1/root/compose"
  echo '{"features": {"containerd-snapshotter": false}}' >"$1/etc/docker/daemon.json"
  cat >"$1/root/compose/compose.yaml" <<YAML
services:
  front:
    image: bb:1
    hostname: front
    ports: ["8081:80"]
  back:
    image: bb:1
    hostname: back
    networks:
      default:
        aliases: [store]
networks:
  default:
    driver: weavers
    ipam: { driver: weavers, config: [{ subnet: $docker_cidr }] }
YAML
}

docker() { on docker docker "$@"; }

# docker_run NAME ARGUMENT...: a container that serves its name
docker_run() {
  local name=$1
  shift
  docker run -d --name "$name" --hostname "$name" --network w "$@" bb:1 >/dev/null
}

docker_pid() { docker inspect --type container -f '{{.State.Pid}}' "$1"; }
docker_address() { docker inspect --type container -f "{{(index .NetworkSettings.Networks \"${2:-w}\").IPAddress}}" "$1"; }
docker_mac() { docker inspect --type container -f '{{(index .NetworkSettings.Networks "w").MacAddress}}' "$1"; }
running() {
  local name
  for name; do says true docker inspect -f '{{.State.Running}}' "$name" || return 1; done
}
# Run by `check`, so what fails is seen.
docker_know() { add_container docker "$(docker_pid "$1")" "$1" "$(docker_address "$1")"; }

# An address of the machine's own that nobody has.
free_address() {
  local first
  first=$(on "$1" weavers status --json | jq -r '.ipam.owned[0] // .owned[0]')
  python3 -c 'import ipaddress, sys; print(ipaddress.ip_network(sys.argv[1])[int(sys.argv[2])])' "$first" "$2"
}

docker_image() {
  docker import --change 'CMD ["httpd","-f","-p","0.0.0.0:80","-h","/www"]' --change 'ENV PATH=/bin' --change 'STOPSIGNAL SIGKILL' \
    /root/image.tar bb:1
}

step_docker() {
  check "the image is imported" docker_image
  check "a network without a subnet is refused, with the way out" refused "--subnet $docker_cidr" \
    docker network create -d weavers --ipam-driver weavers x
  check "a network, as in weavers-docker(7)" docker network create -d weavers --ipam-driver weavers --subnet "$docker_cidr" w
  check "a container with ports" docker_run web -p 8080:80 -p 127.0.0.1:9000:80 -p 127.0.0.1:9001:9/udp
  check "another" docker_run other
  docker_know web
  docker_know other
  docker_wishes
  docker_names
  docker_connect
  docker_ports
  docker_compose
}

docker_wishes() {
  local ip mac=02:42:ac:11:00:99
  ip=$(free_address docker 4660)
  check "a wanted address and MAC address are given" docker_run wish --ip "$ip" --mac-address "$mac"
  check "  the address" same "$ip" "$(docker_address wish)"
  check "  the MAC address, in the container" says "$mac" docker exec wish ip link show eth0
  check "  where it is reached" says "wish hears $(docker_address other)" ask docker "$(docker_pid other)" "$ip"
  check "the address is given once" refused "already in use" docker_run late --ip "$ip"
  check "  and who was refused has nothing of it" docker rm -f late
  check "a restart" docker restart -t 0 wish
  check "  keeps the address" same "$ip" "$(docker_address wish)"
  check "  and the MAC address" says "$mac" docker exec wish ip link show eth0
  docker_know wish
}

docker_names() {
  check "a container with an alias" docker_run db --network-alias store
  check "it is found by its name" says "db hears" docker exec web wget -q -O - http://db/cgi-bin/name
  check "  and by its alias" says "db hears" docker exec web wget -q -O - http://store/cgi-bin/name
  check "it goes" docker rm -f db
  check "  and its name with it" refused "wget: " docker exec web wget -q -O - http://store/cgi-bin/name
}

docker_connect() {
  local pid
  pid=$(docker_pid other)
  check "a running container is disconnected" docker network disconnect w other
  check "  and has no interface but its own" refused "does not exist" in_net docker "$pid" ip link show eth0
  check "  and connected again, with an alias" docker network connect --alias again w other
  check "  as the same process" same "$pid" "$(docker_pid other)"
  check "  where it is found" says "other hears" docker exec web wget -q -O - http://again/cgi-bin/name
  drop_container other
  docker_know other
  check "a container of Docker's own bridge" on docker docker run -d --name plain --hostname plain bb:1
  check "  is connected to weavers, too" docker network connect w plain
  check "  and reached there" says "plain hears" ask docker "$(docker_pid web)" "$(docker_address plain)"
  check "  also from another machine" says "plain hears ${address[podman]}" \
    net podman curl -sS --max-time 5 "http://$(docker_address plain)/cgi-bin/name"
  check "  and goes" docker rm -f plain
}

# From wherever a port of the host is called.
docker_ports() {
  local host=${address[docker]} far
  far=$(docker_pid other)
  check "a port, from another machine" says "web hears ${address[podman]}" net podman curl -sS --max-time 5 "http://$host:8080/cgi-bin/name"
  check "  from the host itself" says "web hears" net docker curl -sS --max-time 5 "http://$host:8080/cgi-bin/name"
  check "  by 127.0.0.1" says "web hears" net docker curl -sS --max-time 5 "http://127.0.0.1:8080/cgi-bin/name"
  check "  from a container beside it, which is seen by its own address" says "web hears $(docker_address other)" ask docker "$far" "$host:8080"
  check "  from the container itself" says "web hears" ask docker "$(docker_pid web)" "$host:8080"
  check "a port of 127.0.0.1, from there" says "web hears" net docker curl -sS --max-time 5 "http://127.0.0.1:9000/cgi-bin/name"
  check "  and from nowhere else" refused "curl: (" net podman curl -sS --max-time 3 "http://$host:9000/cgi-bin/name"
  check "a port of UDP, by 127.0.0.1" udp_arrives
  check "\`weavers status\` shows them" says "8080->80/tcp" on docker weavers status
  check "ports that follow each other" docker_run span -p 8090-8092:80-82
  check "  lead one by one" says "span hears" net podman curl -sS --max-time 5 "http://$host:8090/cgi-bin/name"
  check "a port that another has is refused" refused "8080/tcp is published by" docker_run late -p 8080:80
  docker rm -f late >/dev/null
  check "a container that goes" docker rm -f span
  check "  takes its ports along" refused "curl: (" net podman curl -sS --max-time 3 "http://$host:8090/cgi-bin/name"
}

# Again until the other end listens.
udp_arrives() {
  in_net docker "$(docker_pid web)" timeout 20 nc -u -l -W 1 9 >"$work/udp" &
  eventually 15 udp_is_sent
}
udp_is_sent() {
  on docker sh -c 'echo hello | nc -u -w 1 127.0.0.1 9001'
  says hello cat "$work/udp"
}

docker_compose() {
  compose() { on docker docker compose --project-directory /root/compose "$@"; }
  check "a compose file of two services" compose up -d --quiet-pull
  check "  one finds the other by name" says "back hears" compose exec -T front wget -q -O - http://back/cgi-bin/name
  check "  and by its alias" says "back hears" compose exec -T front wget -q -O - http://store/cgi-bin/name
  check "  the other the one" says "front hears" compose exec -T back wget -q -O - http://front/cgi-bin/name
  check "  its port is reached" says "front hears" net podman curl -sS --max-time 5 "http://${address[docker]}:8081/cgi-bin/name"
  check "  it restarts" compose restart -t 0
  check "  and is found as before" says "back hears" compose exec -T front wget -q -O - http://back/cgi-bin/name
  check "  it goes, with its network" compose down -t 0
}
