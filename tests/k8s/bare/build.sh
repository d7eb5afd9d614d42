#!/usr/bin/env bash
# Build the programs of a Kubernetes cluster from their Go modules: build.sh FOLDER-FOR-BINARIES (10 minutes on 2 CPUs)
set -euo pipefail
BIN=$(realpath -m "$1"); mkdir -p "$BIN/cni"
export GOFLAGS=-mod=mod CGO_ENABLED=0
KUBERNETES=1.34.4

build() {  # MODULE@VERSION OUTPUT PACKAGE...: in a module of its own, which requires that one
  local module=$1 output=$2 package; shift 2
  cd "$(mktemp -d)"
  printf 'module build\nrequire %s %s\n' "${module%@*}" "${module#*@}" > go.mod
  # Kubernetes's own modules are folders of its repository; released, each has a version of its own.
  if [ "${module%@*}" = k8s.io/kubernetes ]; then
    grep -oE '^\s*k8s.io/[a-z-]+ => ./staging' "$(go list -m -f '{{.GoMod}}' "$module")" |
      sed -E "s#\s*(k8s.io/[a-z-]+) .*#replace \1 => \1 v0.${KUBERNETES#1.}#" >> go.mod
  fi
  { echo 'package build'; for package; do echo "import _ \"$package\""; done; } > tools.go
  sed -i '1i //go:build tools\n' tools.go
  go mod tidy
  go build -ldflags "-s -w -X k8s.io/component-base/version.gitVersion=v$KUBERNETES -X k8s.io/component-base/version.gitMajor=1 -X k8s.io/component-base/version.gitMinor=34" -o "$output" "$@"
}

build k8s.io/kubernetes@v$KUBERNETES "$BIN/" k8s.io/kubernetes/cmd/{kube-apiserver,kube-controller-manager,kube-scheduler,kubelet,kube-proxy,kubectl}
build github.com/containernetworking/plugins@v1.9.0 "$BIN/cni/" github.com/containernetworking/plugins/plugins/{main/ptp,main/loopback,ipam/host-local,meta/portmap}
build github.com/coredns/coredns@v1.12.4 "$BIN/coredns" github.com/coredns/coredns
build github.com/distribution/distribution/v3@v3.0.0 "$BIN/registry" github.com/distribution/distribution/v3/cmd/registry
build github.com/cloudnativelabs/kube-router/v2@v2.1.0 "$BIN/kube-router" github.com/cloudnativelabs/kube-router/v2/cmd/kube-router
build sigs.k8s.io/kueue@v0.17.0 "$BIN/kueue" sigs.k8s.io/kueue/cmd/kueue
