"""bench/aarch64: what the Cortex-A76 loop model reads out of disassembly; the arguments of count.py."""

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

SOURCE = Path(__file__).resolve().parents[1] / "bench/aarch64/a76_model.py"


@pytest.fixture(scope="module")
def model():
    spec = importlib.util.spec_from_file_location("a76_model", SOURCE)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    yield module
    del sys.modules[spec.name]


@pytest.mark.parametrize("branch", ["b.ne d040 <loop+0x10>", "b 51f8 <loop>", "cbnz x3, d8 <loop>", "ret"])
def test_branch_takes_no_floating_point_pipe_whatever_its_target_looks_like(model, branch):
    assert [op.pipe for op in model.decode(branch).micro_ops] == ["B"]


def test_branch_on_flags_waits_for_the_comparison(model):
    (compare,) = model.decode("cmp x1, x17").micro_ops
    (branch,) = model.decode("b.ne d040 <loop+0x10>").micro_ops
    assert branch.reads == compare.writes


def test_loop_of_independent_sums_runs_at_the_peak_of_two_a_cycle(model):
    body = [f"fmla v{i}.4s, v30.4s, v31.s[0]" for i in range(24)] + ["subs x0, x0, #0x1", "b.ne d000 <loop>"]
    assert 24 / model.cycles_per_turn(body) == pytest.approx(2.0)


def test_chain_through_one_sum_runs_at_its_latency(model):
    body = ["fmla v0.4s, v30.4s, v31.s[0]"] * 8 + ["subs x0, x0, #0x1", "b.ne 10 <loop>"]
    assert 8 / model.cycles_per_turn(body) == pytest.approx(1 / model.FMLA_TO_ACCUMULATOR)


@pytest.mark.parametrize(
    ("layer", "status"), [("64,64,56,56", 0), ("64,64,56", 2), ("64,x,56,56", 2), ("0,64,56,56", 2)]
)
def test_count_names_a_bad_layer(layer, status):
    command = [sys.executable, SOURCE.with_name("count.py"), "--layer", layer, "--check"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == status and ("need IC,OC,H,W" in done.stderr) == (status != 0)
