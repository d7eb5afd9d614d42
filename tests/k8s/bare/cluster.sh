#!/usr/bin/env bash
# Kubernetes on one Linux machine without a registry: a control plane of plain processes, and nodes that are network
# and mount namespaces, each with a containerd, a kubelet and a kube-proxy of its own. README.md here tells how.
#   cluster.sh up | down | push IMAGE | node-down NAME | node-up NAME
# Needs root, etcd, containerd, runc, buildah, iproute2, iptables, conntrack, openssl, and the binaries of build.sh.
set -euo pipefail
shopt -s nullglob

BIN=${BIN:?the folder of the binaries that build.sh made}
RUN=${RUN:-/var/lib/sweeper-bare}
NODES=(${NODES:-node-a node-b})
HOST_IP=10.90.0.1
REGISTRY=$HOST_IP:5000  # a registry of its own; only the nodes reach it
export PATH=$BIN:$PATH KUBECONFIG=$RUN/admin.kubeconfig

node_ip() { echo 10.90.0.$((10 + $1)); }
pods_of() { echo 10.244.$1.0/24; }
index_of() { for i in "${!NODES[@]}"; do if [ "${NODES[$i]}" = "$1" ]; then echo $((i + 1)); fi; done; }

start() {  # NAME COMMAND...: start a process of the control plane, in a session of its own
  local name=$1; shift
  setsid "$@" > "$RUN/log/$name.log" 2>&1 < /dev/null &
  echo $! > "$RUN/pid/$name"
}

certificates() {
  cd "$RUN/pki"
  openssl req -x509 -newkey rsa:2048 -nodes -days 365 -subj /CN=bare -keyout ca.key -out ca.crt 2> /dev/null
  openssl genrsa -out sa.key 2048 2> /dev/null
  openssl req -newkey rsa:2048 -nodes -subj /CN=kube-apiserver -keyout api.key -out api.csr 2> /dev/null
  openssl x509 -req -in api.csr -CA ca.crt -CAkey ca.key -CAcreateserial -days 365 -out api.crt 2> /dev/null -extfile <(
    echo "subjectAltName=IP:$HOST_IP,IP:127.0.0.1,IP:10.96.0.1,DNS:kubernetes,DNS:kubernetes.default,DNS:kubernetes.default.svc")
  {
    echo "$(openssl rand -hex 16),admin,admin,\"system:masters\""
    echo "$(openssl rand -hex 16),system:kube-controller-manager,controller-manager"
    echo "$(openssl rand -hex 16),system:kube-scheduler,scheduler"
    echo "$(openssl rand -hex 16),system:kube-proxy,proxy"
    for node in "${NODES[@]}"; do echo "$(openssl rand -hex 16),system:node:$node,$node,\"system:nodes\""; done
  } > tokens.csv
  chmod 600 ./*
  while IFS=, read -r token _ name _; do
    cat > "$RUN/$name.kubeconfig" << END
{apiVersion: v1, kind: Config, current-context: bare, contexts: [{name: bare, context: {cluster: bare, user: $name}}],
 clusters: [{name: bare, cluster: {server: "https://$HOST_IP:6443", certificate-authority: $RUN/pki/ca.crt}}],
 users: [{name: $name, user: {token: $token}}]}
END
    chmod 600 "$RUN/$name.kubeconfig"
  done < tokens.csv
  cd - > /dev/null
}

network() {
  ip link add bare0 type bridge && ip addr add $HOST_IP/24 dev bare0 && ip link set bare0 up
  sysctl -qw net.ipv4.ip_forward=1
  iptables -t nat -A POSTROUTING -s 10.90.0.0/24 ! -d 10.90.0.0/16 -m comment --comment bare -j MASQUERADE
  iptables -I FORWARD -i bare0 -m comment --comment bare -j ACCEPT
  iptables -I FORWARD -o bare0 -m comment --comment bare -j ACCEPT
  for node in "${NODES[@]}"; do
    local i; i=$(index_of "$node")
    ip netns add "$node"
    ip link add "bare$i" type veth peer name eth0 netns "$node"
    ip link set "bare$i" master bare0 up
    ip -n "$node" addr add "$(node_ip "$i")/24" dev eth0
    ip -n "$node" link set lo up && ip -n "$node" link set eth0 up
    ip -n "$node" route add default via $HOST_IP
    ip route add "$(pods_of "$i")" via "$(node_ip "$i")"
    for other in "${NODES[@]}"; do
      local j; j=$(index_of "$other")
      [ "$i" = "$j" ] || ip -n "$node" route add "$(pods_of "$j")" via "$(node_ip "$j")"
    done
    ip netns exec "$node" sysctl -qw net.ipv4.ip_forward=1
  done
  ip route add 10.96.0.0/16 via "$(node_ip 1)"  # webhooks: the API server reaches Services through the first node
}

control_plane() {
  start etcd etcd --data-dir "$RUN/etcd" --listen-client-urls http://127.0.0.1:2379 --advertise-client-urls http://127.0.0.1:2379 \
    --listen-peer-urls http://127.0.0.1:2380 --unsafe-no-fsync
  start kube-apiserver kube-apiserver --etcd-servers=http://127.0.0.1:2379 --bind-address=0.0.0.0 --secure-port=6443 \
    --advertise-address=$HOST_IP --service-cluster-ip-range=10.96.0.0/16 --allow-privileged --authorization-mode=Node,RBAC \
    --token-auth-file="$RUN/pki/tokens.csv" --tls-cert-file="$RUN/pki/api.crt" --tls-private-key-file="$RUN/pki/api.key" \
    --service-account-issuer=https://kubernetes.default.svc --service-account-key-file="$RUN/pki/sa.key" \
    --service-account-signing-key-file="$RUN/pki/sa.key" --enable-admission-plugins=NodeRestriction \
    --kubelet-preferred-address-types=InternalIP --endpoint-reconciler-type=lease
  until kubectl get --raw /readyz > /dev/null 2>&1; do sleep 0.5; done
  start kube-controller-manager kube-controller-manager --kubeconfig="$RUN/controller-manager.kubeconfig" \
    --use-service-account-credentials --service-account-private-key-file="$RUN/pki/sa.key" --root-ca-file="$RUN/pki/ca.crt" \
    --leader-elect=false --node-monitor-grace-period=40s --bind-address=127.0.0.1
  start kube-scheduler kube-scheduler --kubeconfig="$RUN/scheduler.kubeconfig" --leader-elect=false --bind-address=127.0.0.1
  start volumes "$0" volumes
  echo "{version: 0.1, storage: {filesystem: {rootdirectory: $RUN/registry}}, http: {addr: '$REGISTRY'}}" > "$RUN/registry.yaml"
  start registry registry serve "$RUN/registry.yaml"
}

volumes() {  # a folder of this machine, which all nodes share, for each claim; removed with it
  set +e  # the API server may be away for a while
  while sleep 1; do
    kubectl get pvc -A -o jsonpath='{range .items[?(@.status.phase=="Pending")]}{.metadata.namespace} {.metadata.name} {.spec.resources.requests.storage} {.spec.accessModes[0]}{"\n"}{end}' |
      while read -r namespace name size mode; do
        kubectl get pv "$namespace-$name" > /dev/null 2>&1 && continue
        mkdir -p "$RUN/volumes/$namespace-$name" && chmod 777 "$RUN/volumes/$namespace-$name"
        kubectl apply -f - << END
---
{apiVersion: v1, kind: PersistentVolume, metadata: {name: $namespace-$name},
 spec: {capacity: {storage: $size}, accessModes: [$mode], persistentVolumeReclaimPolicy: Retain, local: {path: $RUN/volumes/$namespace-$name},
 claimRef: {namespace: $namespace, name: $name},
 nodeAffinity: {required: {nodeSelectorTerms: [{matchExpressions: [{key: kubernetes.io/os, operator: In, values: [linux]}]}]}}}}
END
      done
    kubectl get pv -o jsonpath='{range .items[?(@.status.phase=="Released")]}{.metadata.name}{"\n"}{end}' |
      while read -r name; do kubectl delete pv "$name" && rm -rf "$RUN/volumes/$name"; done
  done 2>&1
}

node() {  # NAME: the inside of a node, in namespaces of its own; ends with them
  local name=$1 i home
  i=$(index_of "$name"); home=$RUN/$name
  hostname "$name"
  mount --make-rshared /
  for folder in /var/lib/containerd /run/containerd /var/lib/kubelet /var/log /var/lib/cni /etc/cni; do
    mkdir -p "$folder" "$home$folder" && mount --bind "$home$folder" "$folder" && mount --make-rshared "$folder"
  done
  mkdir -p /etc/cni/net.d /run/bare-$name
  cat > /etc/cni/net.d/10-bare.conflist << END
{"cniVersion": "1.0.0", "name": "bare", "plugins": [
  {"type": "ptp", "ipMasq": false, "ipam": {"type": "host-local", "subnet": "$(pods_of "$i")", "routes": [{"dst": "0.0.0.0/0"}]}},
  {"type": "portmap", "capabilities": {"portMappings": true}}]}
END
  cat > "$home/containerd.toml" << END
version = 2
[grpc]
  address = "/run/bare-$name/containerd.sock"
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "$REGISTRY/pause:1"
  restrict_oom_score_adj = true
  [plugins."io.containerd.grpc.v1.cri".registry]
    config_path = "$RUN/hosts"
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "$BIN/cni"
  [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
    runtime_type = "io.containerd.runc.v2"
END
  cat > "$home/kubelet.yaml" << END
---
{apiVersion: kubelet.config.k8s.io/v1beta1, kind: KubeletConfiguration, authentication: {anonymous: {enabled: true}, webhook: {enabled: false}},
 authorization: {mode: AlwaysAllow}, cgroupDriver: cgroupfs, cgroupRoot: /$name, failSwapOn: false, failCgroupV1: false, enforceNodeAllocatable: [pods],
 containerRuntimeEndpoint: "unix:///run/bare-$name/containerd.sock", clusterDNS: [10.96.0.10], clusterDomain: cluster.local, resolvConf: /etc/resolv.conf,
 evictionHard: {nodefs.available: 1Gi, imagefs.available: 1Gi}, imageGCHighThresholdPercent: 100, localStorageCapacityIsolation: false,
 nodeStatusUpdateFrequency: 5s, registerWithTaints: []}
END
  for controller in /sys/fs/cgroup/*/; do [ -e "$controller/cgroup.procs" ] && mkdir -p "$controller$name"; done
  [ -d /sys/fs/cgroup/cpuset ] && for file in cpus mems; do cat /sys/fs/cgroup/cpuset/cpuset.$file > "/sys/fs/cgroup/cpuset/$name/cpuset.$file"; done
  containerd --config "$home/containerd.toml" > "$home/containerd.log" 2>&1 &
  until ctr --address "/run/bare-$name/containerd.sock" version > /dev/null 2>&1; do sleep 0.2; done
  kubelet --config="$home/kubelet.yaml" --kubeconfig="$RUN/$name.kubeconfig" --hostname-override="$name" --node-ip="$(node_ip "$i")" \
    --root-dir=/var/lib/kubelet > "$home/kubelet.log" 2>&1 &
  kube-proxy --kubeconfig="$RUN/proxy.kubeconfig" --hostname-override="$name" --proxy-mode=iptables --cluster-cidr=10.244.0.0/16 \
    --conntrack-max-per-core=0 --conntrack-tcp-timeout-established=0 --conntrack-tcp-timeout-close-wait=0 > "$home/kube-proxy.log" 2>&1 &
  # Enforces NetworkPolicies with iptables and ipset.
  kube-router --kubeconfig="$RUN/admin.kubeconfig" --hostname-override="$name" --run-firewall=true --run-router=false \
    --run-service-proxy=false --run-loadbalancer=false --health-port=0 --service-cluster-ip-range=10.96.0.0/16 > "$home/kube-router.log" 2>&1 &
  wait
}

node_up() {  # NAME
  mkdir -p "$RUN/$1"
  setsid nsenter --net="/run/netns/$1" unshare --mount --uts "$0" node "$1" > "$RUN/log/$1.log" 2>&1 < /dev/null &
  echo $! > "$RUN/pid/$1"
}

case ${1:?up, down, push, node-up or node-down} in
  up)
    [ ! -e "$RUN/pid" ] || { echo "a cluster is in $RUN already: $0 down" >&2; exit 1; }
    mkdir -p "$RUN"/{pki,log,pid,volumes,registry,hosts/$REGISTRY}
    printf '[host."http://%s"]\n' "$REGISTRY" > "$RUN/hosts/$REGISTRY/hosts.toml"
    certificates; network; control_plane
    for node in "${NODES[@]}"; do node_up "$node"; done
    for node in "${NODES[@]}"; do until kubectl wait --for=condition=Ready "node/$node" --timeout=60s > /dev/null 2>&1; do sleep 1; done; done
    kubectl get nodes -o wide
    echo "export KUBECONFIG=$KUBECONFIG"
    ;;
  push) buildah push --tls-verify=false "$2" "docker://$REGISTRY/${2##*/}" ;;
  node-down) kill -KILL -- "-$(cat "$RUN/pid/$2")"; nsenter --net="/run/netns/$2" true ;;
  node-up) node_up "$2" ;;
  node | volumes) "$1" "${@:2}" ;;
  down)
    for file in "$RUN"/pid/*; do kill -KILL -- "-$(cat "$file")" 2> /dev/null || true; done
    for node in "${NODES[@]}"; do
      pkill -KILL -f "containerd-shim.*-address /run/bare-$node/" || true
      for procs in /sys/fs/cgroup/*/"$node"/kubepods; do find "$procs" -name cgroup.procs -exec cat {} + | sort -u | xargs -r kill -KILL 2> /dev/null || true; done
      ip netns del "$node" 2> /dev/null || true
    done
    sleep 1
    for space in /run/netns/cni-*; do umount "$space" 2> /dev/null || true; rm -f "$space"; done
    for node in "${NODES[@]}"; do find /sys/fs/cgroup/*/"$node" -depth -type d -exec rmdir {} + 2> /dev/null || true; done
    ip link del bare0 2> /dev/null || true
    iptables -t nat -S POSTROUTING | grep 'comment bare' | sed 's/^-A/-D/' | while read -r rule; do eval "iptables -t nat $rule"; done
    iptables -S FORWARD | grep 'comment bare' | sed 's/^-A/-D/' | while read -r rule; do eval "iptables $rule"; done
    find "$RUN" -mindepth 1 -maxdepth 1 ! -name registry -exec rm -rf {} +  # pushed images stay
    ;;
esac
