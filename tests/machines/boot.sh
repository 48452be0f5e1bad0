# Machines that lose their power and boot: what is to run always runs, what is gone is free; for `.` in tests/runtimes.
# shellcheck shell=bash disable=SC2154 # set by tests/runtimes and tests/machines/machine.sh

# Nobody says DEL, Leave or teardown: the machines are off from one moment to the next.
step_boot() {
  boot_docker
  boot_without_weavers
  boot_podman
  boot_containerd
}

# From now on weavers needs ten seconds more to start.
slow() {
  on "$1" sh -c 'd=/etc/systemd/system/weavers.service.d; mkdir -p $d; printf "[Service]\nExecStartPre=/bin/sleep 10\n" >$d/slow.conf'
}

boot_docker() {
  local ip
  ip=$(free_address docker 4661)
  check "a container that is to run always" docker_run always --restart always -p 8085:80
  check "  one with an address of its own" docker_run own --restart always --ip "$ip"
  echo '{"live-restore": true}' | on docker tee /etc/docker/daemon.json >/dev/null
  slow docker
  check "docker: the power is cut" pull_the_plug docker
  boot docker
  check "docker: it boots, with a weavers that needs ten seconds more" eventually 60 says running on docker systemctl is-system-running
  check "  weavers was called by Docker's socket, or came before" on docker systemctl is-active weavers-docker.socket weavers.service docker.service
  check "  what is to run always runs" eventually 30 running always own
  check "  what was not, does not" refused false running web
  check "  is reached from another machine" eventually 10 says "always hears" net podman curl -sS --max-time 5 "http://$(docker_address always)/cgi-bin/name"
  check "  by its port" says "always hears" net podman curl -sS --max-time 5 "http://${address[docker]}:8085/cgi-bin/name"
  check "  with the address of its own" same "$ip" "$(docker_address own)"
  check "  addresses of what is gone are free" eventually 120 attached_are docker "$(docker ps -q | wc -l)"
  check "  a container is started" docker start web
  check "  weavers is converged" eventually 60 on docker weavers status --check
}

# Somebody has masked the unit.
boot_without_weavers() {
  on docker sh -c 'rm -r /etc/systemd/system/weavers.service.d; systemctl disable -q weavers-docker.socket
    mv /etc/systemd/system/weavers.service /root; systemctl mask -q weavers.service'
  check "docker: it is switched off in order" power_off docker
  boot docker
  check "docker: it boots without weavers, and Docker answers after a while" eventually 150 docker version
  check "  containers of its own bridge run" docker run --rm bb:1 ip address show eth0
  check "  those of weavers do not" refused false running always
  on docker sh -c 'systemctl unmask -q weavers.service; mv /root/weavers.service /etc/systemd/system; systemctl daemon-reload
    systemctl enable -q weavers-docker.socket'
  check "weavers is back, and its socket" on docker systemctl start weavers-docker.socket weavers.service
  check "  and ready" on docker weavers status --wait ready --timeout 60s
  check "  containers start once weavers has heard of Docker what is gone" eventually 90 docker start always own
  check "  and are reached" says "always hears" net podman curl -sS --max-time 5 "http://${address[docker]}:8085/cgi-bin/name"
}

boot_podman() {
  check "a container of Podman that is to run always" podman_run palways --restart always -p 8085:80
  check "  as Podman's unit for that starts it" on podman systemctl enable podman-restart.service
  slow podman
  check "podman: the power is cut" pull_the_plug podman
  boot podman
  check "podman: it boots, with a weavers that needs ten seconds more" eventually 60 says running on podman systemctl is-system-running
  check "  what is to run always runs" eventually 30 says true podman inspect -f '{{.State.Running}}' palways
  check "  is reached from another machine" says "palways hears" net docker curl -sS --max-time 5 "http://$(podman_address palways)/cgi-bin/name"
  check "  by its port" says "palways hears" net docker curl -sS --max-time 5 "http://${address[podman]}:8085/cgi-bin/name"
  check "  addresses of what is gone are free" eventually 60 attached_are podman 1
  check "  a container is started" podman start pwish
  check "  with the address that it asked for" same "$(free_address podman 4660)" "$(podman_address pwish)"
  check "  weavers is converged" eventually 60 on podman weavers status --check
}

boot_containerd() {
  check "fifty containers more" fifty
  check "containerd: the power is cut" pull_the_plug containerd
  boot containerd
  check "containerd: it boots" eventually 60 says running on containerd systemctl is-system-running
  check "  addresses of what is gone are free" eventually 60 attached_are containerd 0
  check "  all of them" same 0 "$(used containerd)"
  check "  a pod that was there is removed" cri stop pod1
  check "  and there again" cri run pod1 8080
  check "  its port is reached" eventually 10 says "pod1 hears" net docker curl -sS --max-time 5 "http://${address[containerd]}:8080/cgi-bin/name"
  check "  a container is started" says "169.254.1.1" ctr run --rm --cni "${no_limits[@]}" docker.io/library/bb:1 t9 ip route
  check "  weavers is converged" eventually 60 on containerd weavers status --check
}
