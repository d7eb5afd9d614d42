#!/usr/bin/env bash
# Build the images of a cluster without a registry, and push them to the one that cluster.sh runs:
#   images.sh BINARIES KUBERAY      KUBERAY: a checkout of github.com/ray-project/kuberay at v1.7.0
# Needs buildah, debootstrap, gcc and Go. The sweeper's own image takes 4 minutes, the rest two.
set -euo pipefail
HERE=$(cd "$(dirname "$0")" && pwd); ROOT=$(cd "$HERE/../../.." && pwd)
BIN=$(realpath "$1"); KUBERAY=$(realpath "$2"); WORK=$(mktemp -d)
REGISTRY=10.90.0.1:5000
# Without these, `pip` in the image does not trust the certificates that this machine trusts.
TRUST=(--volume /etc/ssl/certs:/etc/ssl/certs:ro --volume /usr/local/share/ca-certificates:/usr/local/share/ca-certificates:ro)

image() {  # NAME FOLDER [OPTION...]: build the Containerfile of a folder, and push the image
  buildah bud --isolation chroot --network host "${@:3}" --tag "localhost/$1" "$2"
  buildah push --tls-verify=false "localhost/$1" "docker://$REGISTRY/$1"
}

holding() {  # NAME FILE COMMAND...: an image that holds one static program
  local folder=$WORK/${1%%:*}
  mkdir -p "$folder" && cp "$2" "$folder/program"
  printf 'FROM scratch\nCOPY program %s\nENTRYPOINT ["%s"]\n' "$3" "$3" > "$folder/Containerfile"
  image "$1" "$folder"
}

gcc -Os -static -o "$WORK/pause" "$HERE/images/pause.c"
(cd "$KUBERAY/ray-operator" && CGO_ENABLED=0 go build -o "$WORK/manager" .)
holding pause:1 "$WORK/pause" /pause
holding coredns:1 "$BIN/coredns" /coredns
holding operator:1 "$WORK/manager" /manager

# Debian in place of the image `python`, which no registry here has.
debootstrap --variant=minbase --include=python3,python3-pip,python3-venv,python-is-python3,ca-certificates bookworm "$WORK/root"
mkdir "$WORK/python" && tar -C "$WORK/root" -cf "$WORK/python/root.tar" .
printf 'FROM scratch\nADD root.tar /\nENV PIP_BREAK_SYSTEM_PACKAGES=1 LANG=C.UTF-8\n' > "$WORK/python/Containerfile"
image python:bookworm "$WORK/python"

mkdir "$WORK/postgres" && cp "$HERE/images/postgres.sh" "$WORK/postgres/"
cat > "$WORK/postgres/Containerfile" << 'END'
FROM localhost/python:bookworm
RUN apt-get update && apt-get install --yes --no-install-recommends postgresql-15 && rm -rf /var/lib/apt/lists/* \
 && groupmod --gid 999 postgres && usermod --uid 999 postgres && mkdir -p /docker-entrypoint-initdb.d
ENV PATH=/usr/lib/postgresql/15/bin:/usr/sbin:/usr/bin:/sbin:/bin
COPY postgres.sh /
USER 999:999
ENTRYPOINT ["sh", "/postgres.sh"]
CMD ["postgres", "-c", "listen_addresses=*"]
END
image postgres:debian "$WORK/postgres" "${TRUST[@]}"

mkdir "$WORK/sweeper" && git -C "$ROOT" archive HEAD | tar -x -C "$WORK/sweeper"
image sweeper:0.2.0-ray2.60.0 "$WORK/sweeper" "${TRUST[@]}" --build-arg BASE=localhost/python:bookworm --file "$WORK/sweeper/k8s/Dockerfile"
rm -rf "$WORK"
