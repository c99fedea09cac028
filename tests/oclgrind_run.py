"""Runs every operator and convolution of the tests on Oclgrind, which checks each access of each item: python
oclgrind_run.py. The caller sets its environment and reads its log. Not a test itself."""

import sys

import torch
from compiled_cases import distance
from networks import random
from opencl_cases import CONVS, conv_case
from operator_cases import OPERATORS, operator_model

import pconv_ops


def main() -> int:
    wrong = []
    cases = [(name, operator_model(name), random(2, 8, 9, 11)) for name in OPERATORS]
    cases += [(name, *conv_case(name, whole=False)) for name in CONVS]
    for name, net, x in cases:
        model = pconv_ops.OpenCLModel(pconv_ops.compile(net, x, check=False).native, "oclgrind")
        with torch.no_grad():
            if not distance(model(x), net(x)) < 1e-5:
                wrong.append(name)
        print(name, flush=True)
    print(f"wrong: {wrong}")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
