"""The device of the tests of the OpenCL backend: PoCL. Where there is none they are skipped, unless
PCONV_REQUIRE_OPENCL says that there must be one. A module that imports `on_pocl` from here has all its tests run so."""

import os

import pytest

import pconv_ops
from pconv_ops import BackendUnavailable, OpenCLModel, opencl, opencl_device

DEVICE = "Portable Computing Language"

try:
    opencl.find_device(DEVICE)
except BackendUnavailable as missing:
    if os.environ.get("PCONV_REQUIRE_OPENCL") == "1":
        raise
    pytest.skip(f"{missing}: make build installs both", allow_module_level=True)


@pytest.fixture(autouse=True)
def on_pocl(monkeypatch, tmp_path):
    """PCONV_OPENCL_DEVICE names it; tiles that were tuned before are not seen."""
    monkeypatch.setenv(opencl_device.ENVIRONMENT, DEVICE)
    monkeypatch.setenv("PCONV_CACHE", str(tmp_path / "cache"))


def on_device(model, x, storage="fp32"):
    return OpenCLModel(pconv_ops.compile(model, x, check=False).native, storage=storage)
