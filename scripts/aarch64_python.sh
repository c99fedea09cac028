#!/usr/bin/env bash
# aarch64_python.sh FOLDER [REQUIREMENT ...]: an aarch64 Python 3.11 with numpy to run under qemu-user: Debian's
# packages, unpacked into FOLDER/root, and wheels of numpy and what else is asked for, without what they depend on,
# unpacked into FOLDER/site. Nothing is installed into the system.
set -euo pipefail

folder=$(mkdir -p "$1" && cd "$1" && pwd)
python=${PYTHON:-python3}
shift

add_wheel() { # add_wheel REQUIREMENT
  local to="$folder/wheels/$1"
  if [ -f "$to/unpacked" ]; then return; fi
  "$python" -m pip download --quiet --dest "$to" --platform manylinux2014_aarch64 --only-binary=:all: \
    --python-version 3.11 --no-deps "$1"
  "$python" -m zipfile -e "$to"/*.whl "$folder/site"
  touch "$to/unpacked"
}
add_wheels() {
  for requirement in "$@"; do add_wheel "$requirement"; done
}
if [ -f "$folder/complete" ]; then
  add_wheels "$@"
  exit 0
fi

packages=(
  python3.11-minimal libpython3.11-minimal libpython3.11-stdlib libpython3.11-dev
  libc6 libgcc-s1 libstdc++6 zlib1g libexpat1 libssl3 libffi8 libbz2-1.0 liblzma5 libsqlite3-0 libuuid1
)
state="$folder/apt"
mkdir -p "$state/lists/partial" "$state/cache/archives/partial" "$folder/debs" "$folder/root" "$folder/site"
touch "$state/status"
apt=(apt-get -qq -o APT::Architecture=arm64 -o APT::Architectures::=arm64 -o "Dir::State=$state"
  -o "Dir::State::status=$state/status" -o "Dir::Cache=$state/cache" -o APT::Sandbox::User=root)
"${apt[@]}" update
(cd "$folder/debs" && "${apt[@]}" download "${packages[@]}")
for package in "$folder"/debs/*.deb; do dpkg-deb -x "$package" "$folder/root"; done
# The loader is looked for in /lib, where merged systems have a link.
if [ -d "$folder/root/usr/lib/aarch64-linux-gnu" ] && [ ! -e "$folder/root/lib/ld-linux-aarch64.so.1" ]; then
  mkdir -p "$folder/root/lib"
  ln -s ../usr/lib/aarch64-linux-gnu/ld-linux-aarch64.so.1 "$folder/root/lib/ld-linux-aarch64.so.1"
fi
add_wheels numpy "$@"
touch "$folder/complete"
