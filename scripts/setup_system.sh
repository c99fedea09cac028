#!/usr/bin/env bash
# setup_system.sh base|aarch64|lint|fuzz|dataset: make sure that the system packages of this group are there.
# What is missing is installed through apt-get when that is possible (Debian or Ubuntu, as root); else the script says
# what to install and fails.
set -euo pipefail

missing=()
need() { # need PACKAGE COMMAND...: PACKAGE is missing unless COMMAND succeeds
  local package=$1
  shift
  "$@" >/dev/null 2>&1 || missing+=("$package")
}
python=${PYTHON:-python3}

find_missing() {
  missing=()
  case $1 in
    base)
      need g++ command -v g++
      need make command -v make
      need cmake command -v cmake
      need python3-venv "$python" -c 'import ensurepip, venv'
      need python3-dev "$python" -c 'import os, sysconfig as s; os.stat(s.get_path("include") + "/Python.h")'
      ;;
    aarch64)
      need g++-aarch64-linux-gnu command -v aarch64-linux-gnu-g++
      need binutils-aarch64-linux-gnu command -v aarch64-linux-gnu-objdump
      need qemu-user command -v qemu-aarch64
      ;;
    lint) need clang-format command -v clang-format ;;
    fuzz)
      need clang command -v clang++
      # Debian's package of clang's runtime carries the version of clang.
      version=$({ clang++ -dumpversion 2>/dev/null || echo 14; } | cut -d. -f1)
      need "libclang-rt-$version-dev" sh -c 'test -f "$(clang++ -print-file-name=libclang_rt.fuzzer-$(uname -m).a)"'
      ;;
    dataset) need dataset-fashion-mnist test -f /usr/share/datasets/fashion-mnist/train-images-idx3-ubyte.gz ;;
    *)
      echo "usage: setup_system.sh base|aarch64|lint|fuzz|dataset" >&2
      exit 2
      ;;
  esac
}

find_missing "$1"
if [ ${#missing[@]} -eq 0 ]; then exit 0; fi
if [ "$(id -u)" -eq 0 ] && command -v apt-get >/dev/null; then
  export DEBIAN_FRONTEND=noninteractive
  echo "installing ${missing[*]}"
  { apt-get update -qq && apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null; } || true
  find_missing "$1"
fi
if [ ${#missing[@]} -ne 0 ]; then
  echo "missing system packages (Debian names): install them with: apt-get install ${missing[*]}" >&2
  exit 1
fi
