"""Builds the core through CMake (which owns its sources and flags) and the Cython binding on top of it."""

import os
import platform
import re
import shutil
import subprocess
import sys
from pathlib import Path

from Cython.Build import cythonize
from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

ROOT = Path(__file__).resolve().parent
# Shared with the Makefile, so that the native tests and the wheel compile the ukernels once. For another machine
# (make wheel-aarch64) the environment names a build of its own and CMake's toolchain file.
CORE_BUILD = Path(os.environ.get("PCONV_CORE_BUILD") or Path("build") / f"{platform.machine()}-core")
TOOLCHAIN = os.environ.get("PCONV_TOOLCHAIN")
CORE_LIBRARY = CORE_BUILD / "libpconv.a"


def read_version() -> str:
    """The version stands in include/pconv/pconv.h and nowhere else."""
    header = (ROOT / "include/pconv/pconv.h").read_text()
    return ".".join(re.findall(r"^#define PCONV_VERSION_(?:MAJOR|MINOR|PATCH) (\d+)$", header, re.MULTILINE))


def build_core() -> None:
    cmake = shutil.which("cmake")
    if cmake is None:
        sys.exit("pconv_ops needs cmake >= 3.20 to build: install it with your system's packages or with pip")
    configure = [cmake, "-S", ".", "-B", str(CORE_BUILD)]
    if not (ROOT / CORE_BUILD / "CMakeCache.txt").exists():
        configure += ["-DPCONV_BUILD_TESTS=OFF", "-DPCONV_BUILD_APPS=OFF"]
        configure += ["--toolchain", TOOLCHAIN] if TOOLCHAIN else []
    jobs = os.environ.get("CMAKE_BUILD_PARALLEL_LEVEL", str(os.cpu_count() or 1))
    subprocess.run(configure, cwd=ROOT, check=True)
    build = [cmake, "--build", str(CORE_BUILD), "--target", "pconv_static", "--parallel", jobs]
    subprocess.run(build, cwd=ROOT, check=True)


class BuildExt(build_ext):
    """Brings the core up to date before the binding is linked to it."""

    def run(self) -> None:
        build_core()
        super().run()


native = Extension(
    "pconv_ops._native",
    ["pconv_ops/_native.pyx"],
    include_dirs=["include"],
    extra_objects=[str(CORE_LIBRARY)],
    language="c++",
    extra_compile_args=["-std=c++17", "-O2", "-g0", "-fvisibility=hidden"],
    # The C API inside the module is its own affair: another libpconv in the process must not meet it.
    extra_link_args=["-pthread", "-Wl,--exclude-libs,ALL"],
)

# Runs what the native module exports to Cython; links nothing.
eager = Extension(
    "pconv_ops._eager",
    ["pconv_ops/_eager.pyx"],
    include_dirs=["include"],
    language="c++",
    extra_compile_args=["-std=c++17", "-O2", "-g0", "-fvisibility=hidden"],
)

extensions = cythonize([native, eager], build_dir="build/cython", language_level=3)
for extension in extensions:  # a new core is linked in, its structs may differ; cythonize would look for it too early
    extension.depends.append(str(CORE_LIBRARY))

setup(
    version=read_version(),
    ext_modules=extensions,
    cmdclass={"build_ext": BuildExt},
)
