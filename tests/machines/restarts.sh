# Daemons that are stopped, killed and started while containers run; for `.` in tests/runtimes.
# shellcheck shell=bash disable=SC2154 # set by tests/runtimes and tests/machines/machine.sh

# Whether each of many packets of one container to another is answered, while something happens.
pings_start() { # MACHINE PID ADDRESS
  on "$1" nsenter -t "$2" -n ping -n -q -i 0.02 -W 1 "$3" >"$work/pings" 2>&1 &
  pings=$!
}
pings_end() {
  on "$1" pkill -INT -x ping
  wait "$pings" || true
}
none_lost() { says " 0% packet loss" cat "$work/pings"; }

step_restarts() {
  local pid ip
  check "a container that is to run always" docker_run always --restart always -p 8085:80
  ip=$(docker_address always)
  check "  one that is to run unless it is stopped" docker_run unless --restart unless-stopped
  check "Docker restarts" docker_restarts
  check "  what is to run always runs" eventually 30 running always unless
  check "  and is reached" says "always hears" ask docker "$(docker_pid unless)" "$(docker_address always)"
  check "  by its port, too" says "always hears" net podman curl -sS --max-time 5 "http://${address[docker]}:8085/cgi-bin/name"
  check "  what is not, is stopped" refused false running web
  check "  and can be started" docker start web other wish
  check "  with the address that it asked for" same "$(free_address docker 4660)" "$(docker_address wish)"
  live_restore
  weavers_dies
  plugin_is_away
  docker_is_silent
  many_addresses
  check "they go" docker rm -f always unless
  : >"$containers"
  docker_know web && docker_know other && docker_know wish
}

# systemd counts starts, of people too.
docker_restarts() { on docker sh -c 'systemctl reset-failed docker.service; systemctl restart docker.service'; }

live_restore() {
  local pid ip
  echo '{"live-restore": true}' | on docker tee /etc/docker/daemon.json >/dev/null
  check "live-restore is set" on docker systemctl reload docker.service
  check "  and known" eventually 10 says true docker info -f '{{.LiveRestoreEnabled}}'
  pid=$(docker_pid web) ip=$(docker_address web)
  pings_start docker "$(docker_pid other)" "$ip"
  check "Docker restarts" docker_restarts
  on docker systemctl reset-failed docker.service
  check "  and is killed" on docker systemctl kill -s KILL docker.service
  check "  and is back" eventually 30 docker version
  sleep 1
  pings_end docker
  check "  no packet was lost" none_lost
  check "  the container is the same" same "$pid $ip" "$(docker_pid web) $(docker_address web)"
  check "  its port leads to it" says "web hears" net podman curl -sS --max-time 5 "http://${address[docker]}:8080/cgi-bin/name"
  check "  it is stopped and started" docker restart -t 0 web
  check "  and nothing is left of its former link" same "$(($(docker ps -q | wc -l) + 1))" "$(links docker)"
  check "weavers is converged" eventually 30 on docker weavers status --check
}

weavers_dies() {
  pings_start docker "$(docker_pid other)" "$(docker_address web)"
  check "weavers is killed" on docker systemctl kill -s KILL weavers.service
  check "  a container is started meanwhile, for which Docker waits" docker_run meanwhile
  check "  it is reached" says "meanwhile hears" ask docker "$(docker_pid web)" "$(docker_address meanwhile)"
  pings_end docker
  check "  no packet of others was lost" none_lost
  check "it goes" docker rm -f meanwhile
}

# The plugin is away for good: nobody listens.
plugin_is_away() {
  check "weavers and its socket are stopped" on docker systemctl stop weavers-docker.socket weavers.service
  check "  Docker restarts all the same within a minute" within 60000 docker_restarts
  check "  its containers are there" running always web
  check "  and reached" says "web hears" ask docker "$(docker_pid other)" "$(docker_address web)"
  check "weavers and its socket are back" on docker systemctl start weavers-docker.socket weavers.service
  check "  and ready" on docker weavers status --wait ready --timeout 30s
  check "  containers start" docker_run after
  check "  and go" docker rm -f after
}

# Docker's own socket takes calls and answers none, as while Docker starts.
docker_is_silent() {
  on docker sh -c 'printf "\n[docker]\nsocket = \"/run/silent.sock\"\n" >>/etc/weave/weave.toml
    systemd-run --quiet --unit=silent nc -lkU /run/silent.sock; systemctl restart weavers.service'
  check "Docker's socket does not answer weavers" on docker weavers status --wait ready --timeout 30s
  sleep 11
  check "  a container starts at once all the same" within 5000 docker_run silent
  check "  and goes" within 5000 docker rm -f silent
  on docker sh -c 'sed -i "/^\[docker\]/,\$d" /etc/weave/weave.toml; systemctl stop silent.service; systemctl restart weavers.service'
  check "it answers again" on docker weavers status --wait ready --timeout 30s
}

# Twenty containers, weavers killed, twenty more; and once more without its store.
many_addresses() {
  many() {
    local number
    for number in $(seq "$1" "$2"); do docker_run "many$number" || return 1; done
  }
  distinct() {
    local all
    all=$(docker ps -q | while read -r id; do docker_address "$id"; done)
    same "$(wc -l <<<"$all")" "$(sort -u <<<"$all" | wc -l)"
  }
  check "ten containers more" many 1 10
  check "weavers is killed" on docker systemctl kill -s KILL weavers.service
  check "  and ten more are started" many 11 20
  check "  no address is given twice" distinct
  check "weavers loses its store" on docker sh -c 'systemctl stop weavers.service; rm -rf /var/lib/weave; systemctl start weavers.service'
  check "  it is ready" on docker weavers status --wait ready --timeout 60s
  check "  it asks Docker whose its links are" eventually 20 knows_names many1 many20 web always
  check "  and ten more are started" many 21 30
  check "  no address is given twice" distinct
  check "  all are reached" many_reached
  # shellcheck disable=SC2046 # ids
  check "they go" docker rm -f $(docker ps -q --filter name=many)
  check "  and weavers knows" eventually 130 attached_are docker "$(docker ps -q | wc -l)"
}

knows_names() {
  local name status
  status=$(on docker weavers status --json)
  for name; do jq -e --arg name "$name" 'any(.attachments[]; .name == $name)' <<<"$status" >/dev/null || { echo "$name is not known"; return 1; }; done
}

many_reached() {
  local id from
  from=$(docker_pid web)
  for id in $(docker ps -q --filter name=many); do
    ping_large docker "$from" "$(docker_address "$id")" || return 1
  done
}
