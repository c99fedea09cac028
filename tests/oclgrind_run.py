"""Runs every operator and convolution of the tests on Oclgrind, which checks each access of each item, in the forms
that CPUs and GPUs get: python oclgrind_run.py. The caller sets its environment and reads its log. Not a test itself."""

import sys

import torch
from compiled_cases import distance
from networks import random
from opencl_cases import CONVS, conv_case
from operator_cases import OPERATORS, operator_model

import pconv_ops
from pconv_ops.opencl_ops import Target
from pconv_ops.opencl_session import Session

TARGETS = [
    *(Target(8, by_row=True), Target(1), Target(4)),
    *(Target(4, images=True, max_texels=65536), Target(4, half=True, images=True, max_texels=65536)),
    *(Target(8, half=True, by_row=True), Target(1, half=True), Target(4, half=True)),
]


def buffers_of_their_own(session, regions, *_):
    """Instead of parts of one buffer, within which an access beside a tensor would not be seen."""
    cl = session.device.cl
    return {
        key: cl.Buffer(session.device.context, cl.mem_flags.READ_WRITE, region.n_bytes)
        for key, region in regions.items()
    }


def main() -> int:
    Session._allocate = buffers_of_their_own
    wrong = []
    cases = [(name, operator_model(name), random(2, 8, 9, 11)) for name in OPERATORS]
    cases += [(name, *conv_case(name, whole=False)) for name in CONVS]
    for name, net, x in cases:
        native = pconv_ops.compile(net, x, check=False).native
        for target in TARGETS:
            model = pconv_ops.OpenCLModel(native, "oclgrind", "fp16" if target.half else "fp32")
            model._target = target
            with torch.no_grad():
                if not distance(model(x), net(x)) < (0.05 if target.half else 1e-5):
                    wrong.append((name, target))
        print(name, flush=True)
    print(f"wrong: {wrong}")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
