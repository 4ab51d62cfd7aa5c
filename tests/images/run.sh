#!/usr/bin/env bash
# Build the images of the Dockerfile without a Docker engine, and start what was built: the pipeline on a
# small sample, then the app with the bundle that it made, and a prediction fetched from it.
#
# Needs root, Debian's buildah and debootstrap, about 20 GB and half an hour on 2 cores. No part of `make test`.
# Usage: tests/images/run.sh [train] [app] [airflow]     which images (train and app)
#
# STORAGE=vfs where the kernel refuses overlay (slower, three times the space).
# FOLDER keeps everything and is not removed where it is set; BASE_IMAGE takes another base than Debian's own;
# PORT is where app and Airflow listen (17860).
set -euo pipefail
cd "$(dirname "$0")/../.."
targets=("$@")
[ $# -gt 0 ] || targets=(train app)

folder=${FOLDER:-$(mktemp -d)}
data=$folder/data
# Whom no image has a name for, as DATA_UID and DATA_GID may be.
owner=12345:12345
export TMPDIR=$folder/tmp
mkdir -p "$TMPDIR" "$data"
builder=(buildah --root "$folder/storage" --runroot "$folder/run" --storage-driver "${STORAGE:-overlay}")
served=
# All of it, since a chroot ends nothing of what was started in it.
stop() {
    kill -- "-$served" 2>/dev/null || true
    for _ in $(seq 30); do
        kill -0 -- "-$served" 2>/dev/null || break
        sleep 1
    done
    kill -KILL -- "-$served" 2>/dev/null || true
    served=
}
end() {
    [ -z "$served" ] || stop
    "${builder[@]}" rm --all >/dev/null 2>&1 || true
    [ -n "${FOLDER:-}" ] || rm -rf "$folder"
}
trap end EXIT

# A Debian of its own Python, as small as the slim image of a registry.
base=${BASE_IMAGE:-localhost/python:debian}
if [ -z "${BASE_IMAGE:-}" ] && ! "${builder[@]}" inspect --type image "$base" >/dev/null 2>&1; then
    root=$folder/debian
    [ -e "$root/usr/bin/python3" ] ||
        debootstrap --variant=minbase --include=python3,python3-venv,ca-certificates bookworm "$root" >"$folder/debootstrap.log"
    rm -rf "$root"/var/cache/apt/* "$root"/var/lib/apt/lists/* "$root"/usr/share/{doc,man,locale}/*
    container=$("${builder[@]}" from scratch)
    "${builder[@]}" add --quiet "$container" "$root" / >/dev/null
    "${builder[@]}" commit --quiet --rm "$container" "$base" >/dev/null
fi

# pip inside reaches the registry as pip here does: as build secrets, which no layer keeps.
certificates=$(pip config get global.cert 2>/dev/null || echo /etc/ssl/certs/ca-certificates.crt)
{
    echo "[global]"
    echo "cert = /run/secrets/ca_certificates"
    for name in index-url trusted-host proxy; do
        if value=$(pip config get "global.$name" 2>/dev/null); then echo "$name = $value"; fi
    done
} >"$folder/pip.conf"

for target in "${targets[@]}"; do
    started=$SECONDS
    "${builder[@]}" build --isolation=chroot --network=host --format docker --target "$target" \
        --build-arg BASE_IMAGE="$base" --secret id=pip_conf,src="$folder/pip.conf" \
        --secret id=ca_certificates,src="$certificates" --tag "localhost/malaria-cells-$target" . \
        >"$folder/build-$target.log" 2>&1 || { tail -30 "$folder/build-$target.log"; exit 1; }
    echo "built $target in $((SECONDS - started)) s"
done

# A container that nobody is root in. `buildah run` does not know the entry point: it is read from the image.
start() { # image, then what takes the place of its CMD
    local image=$1 container
    shift
    container=$("${builder[@]}" from --pull-never "localhost/malaria-cells-$image")
    mapfile -t entry < <("${builder[@]}" inspect --type image --format \
        '{{range .Docker.Config.Entrypoint}}{{println .}}{{end}}' "localhost/malaria-cells-$image" | sed '/^$/d')
    exec "${builder[@]}" run --isolation=chroot --network=host --user "$owner" --volume "$data:/data:rw" \
        "$container" -- "${entry[@]}" "$@"
}

echo "sizes:"
"${builder[@]}" images --format '{{.Name}} {{.Size}}' | grep malaria-cells

if [[ " ${targets[*]} " == *" train "* ]]; then
    sed -E -e 's/^( +patients:) [0-9]+/\1 12/' -e 's/^( +cells:) [0-9]+/\1 240/' \
        -e 's/^( +tolerance:) [0-9.]+/\1 0.2/' -e 's/^( +epochs:) [0-9]+/\1 2/' \
        -e 's/^( +resamples:) [0-9]+/\1 100/' params.yaml >"$data/params.yaml"
    chown -R "$owner" "$data"
    (start train dvc repro)
    echo "a second start of the same:"
    (start train dvc repro) | tail -1
fi

# Started in the background; returns once the page answers.
serve() { # path that answers, port, then as for start
    local path=$1 port=$2
    shift 2
    # With job control it is the first of a process group of its own.
    set -m
    (start "$@") >"$folder/$1.log" 2>&1 &
    served=$!
    set +m
    for _ in $(seq 600); do
        if curl -fsS "http://127.0.0.1:$port$path" 2>/dev/null; then
            echo
            return
        fi
        kill -0 "$served" 2>/dev/null || break
        sleep 1
    done
    tail -30 "$folder/$1.log"
    exit 1
}

port=${PORT:-17860}
if [[ " ${targets[*]} " == *" app "* ]]; then
    # Without a pipeline's bundle, the pretrained one of the image.
    model=()
    [ ! -d "$data/models/malaria-cells" ] || model=(--model /data/models/malaria-cells)
    serve /healthz "$port" app --port "$port" "${model[@]}"
    curl -fsS "http://127.0.0.1:$port/version"
    echo
    cells=("$data"/data/raw/Parasitized/*.png)
    if [ -f "${cells[0]}" ]; then
        curl -fsS --data-binary "@${cells[0]}" "http://127.0.0.1:$port/classify"
        echo
    fi
    stop
fi

if [[ " ${targets[*]} " == *" airflow "* ]]; then
    chown -R "$owner" "$data"
    serve /api/v2/monitor/health "$port" airflow \
        /opt/airflow/bin/python orchestration/airflow/standalone.py --port "$port"
fi
