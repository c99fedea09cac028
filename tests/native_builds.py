"""What `make native` and `make aarch64` built, for tests that run programs: skipped visibly where it is not there,
unless PCONV_REQUIRE_AARCH64 says that it must be."""

import os
import platform
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
QEMU = ("qemu-aarch64", "-cpu", "cortex-a76", "-L", "/usr/aarch64-linux-gnu")


@dataclass(frozen=True)
class Build:
    """A build of the core: its folder, how its programs are started and how cmake is told to build for it."""

    name: str
    folder: Path
    emulator: tuple[str, ...] = ()
    toolchain: tuple[str, ...] = ()

    def run(self, *command):
        """A program of this build."""
        words = [*self.emulator, *map(str, command)]
        done = subprocess.run(words, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def installed(self, folder):
        """The build installed into a folder, which is returned; once."""
        if not folder.exists():
            subprocess.run(["cmake", "--install", self.folder, "--prefix", folder], check=True, capture_output=True)
        return folder

    def project(self, source, prefix, build):
        """A CMake project built against an installed core."""
        configure = ["cmake", "-S", source, "-B", build, f"-DCMAKE_PREFIX_PATH={prefix}", *self.toolchain]
        # A toolchain looks for packages among the target's alone.
        configure += [f"-Dpconv_DIR={next(Path(prefix).rglob('pconvConfig.cmake')).parent}"]
        for command in (configure, ["cmake", "--build", build]):
            done = subprocess.run(list(map(str, command)), capture_output=True, text=True, check=False)
            assert done.returncode == 0, done.stdout + done.stderr
        return build


NATIVE = Build("native", ROOT / "build" / f"{platform.machine()}-core")
AARCH64 = Build(
    "aarch64",
    ROOT / "build" / "aarch64",
    QEMU,
    ("--toolchain", str(ROOT / "cmake" / "toolchains" / "aarch64-linux-gnu.cmake")),
)
BUILDS = pytest.mark.parametrize("build", [NATIVE, AARCH64], ids=lambda build: build.name)


def require(build, program="apps/pconv_run"):
    """The path of a program of a build."""
    path = build.folder / program
    missing = [] if path.exists() else [f"{path} (make native aarch64)"]
    if build.emulator and shutil.which(build.emulator[0]) is None:
        missing.append(build.emulator[0])
    if missing:
        if os.environ.get("PCONV_REQUIRE_AARCH64") == "1":
            pytest.fail(f"required, but missing: {', '.join(missing)}")
        pytest.skip(f"missing: {', '.join(missing)}")
    return path
