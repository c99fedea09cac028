"""A small out-of-order model of the Cortex-A76: cycles of one turn of a loop, given its disassembly.

4-wide decode, 2 FP pipes, 2 load pipes, 3 integer pipes, FMLA latency 4 with 2 on the accumulator input, vector load 5,
perfect L1; costs from Arm's Neoverse N1 optimisation guide. The peak is 2.00 FMLA per cycle. It is a model, not a
measurement: use it to compare loops and to catch spills, not to quote times. LLVM 16's own cortex-a76 model is the
Cortex-A57's (peak 1.00): do not use llvm-mca for this.
"""

import re
from dataclasses import dataclass
from typing import NamedTuple

PIPES = {"V": 2, "L": 2, "I": 3, "B": 1}
QUEUE_SLOTS = {"V": 32, "L": 24, "I": 48, "B": 16}
DECODE_WIDTH = 4
REORDER_SLOTS = 128
FMLA_TO_ACCUMULATOR = 2


class MicroOp(NamedTuple):
    """One operation of one pipe; `accumulator` is the register that is both read and written late, if any."""

    pipe: str
    latency: int
    reads: list[str]
    writes: list[str]
    accumulator: str | None = None


class Instruction(NamedTuple):
    micro_ops: list[MicroOp]
    decode_slots: int


@dataclass
class Waiting:
    """A micro-op in a queue: ids of the micro-ops it waits for, and whether each feeds its accumulator."""

    id: int
    latency: int
    needs: list[tuple[int | None, bool]]
    is_accumulating: bool
    turn: int


def registers(text: str) -> list[str]:
    """Names of the registers in an operand list: v0 for every width of vector register, x0 for every integer one."""
    return [("v" if kind in "vqdsh" else "x") + n for kind, n in re.findall(r"\b([vqdshxw])(\d+)\b", text)]


def decode_memory(op: str, operands: str) -> Instruction:
    before, rest = operands.split("[", 1)
    base_text, _, after = rest.partition("]")
    base = registers(base_text) or (["sp"] if "sp" in base_text else [])
    data = registers(before)
    is_vector = bool(data) and data[0][0] == "v"
    if op.startswith("ldp"):
        ops = [MicroOp("L", 5, base, [d]) for d in data] if is_vector else [MicroOp("L", 4, base, data)]
    elif op == "ld1r":
        ops = [MicroOp("L", 5, base, ["t"]), MicroOp("V", 2, ["t"], data)]
    elif re.match(r"ld[234]$", op):
        ops = [MicroOp("L", 5, base, [f"t{i}"]) for i in range(len(data))]
        ops += [MicroOp("V", 2, [f"t{i}"], [d]) for i, d in enumerate(data)]
    elif op.startswith("ld"):
        ops = [MicroOp("L", 5 if is_vector else 4, base, [d]) for d in (data or ["t"])]
    elif op.startswith("st"):
        ops = [MicroOp("L", 1, base, [])] + ([MicroOp("V", 1, [d], []) for d in data] if is_vector else [])
    elif op == "prfm":
        ops = [MicroOp("L", 1, base, [])]
    else:
        ops = [MicroOp("I", 1, base, data)]
    slots = len(ops)
    if "!" in after or after.strip().startswith(","):  # the base register is updated
        ops.append(MicroOp("I", 1, base, base[:1]))
    return Instruction(ops, slots)


def decode(text: str) -> Instruction:
    """Micro-ops and decode slots of one line of disassembly."""
    op, _, operands = text.strip().partition(" ")
    operands = re.sub(r"<.*?>|//.*", "", operands).strip()
    if "[" in operands and not re.match(r"(fml|fmul|sdot|udot|bf|mov|dup|ins|umov)", op):
        return decode_memory(op, operands)
    if re.match(r"(b|b\..*|cbn?z|tbn?z|ret|bl)$", op):  # before registers(): the target d040 is no register
        reads = ["flags"] if op.startswith("b.") else registers(operands.split(",")[0]) if op[0] in "ct" else []
        return Instruction([MicroOp("B", 1, reads, [])], 1)
    regs = registers(operands)
    if re.match(r"(fmla|fmls|fmlal|sdot|udot|bfmmla|bfdot)", op):
        return Instruction([MicroOp("V", 4, regs[1:], [regs[0]], regs[0])], 1)
    if regs and regs[0][0] == "v":
        return Instruction([MicroOp("V", 3 if op.startswith("f") else 2, regs[1:], [regs[0]])], 1)
    if op in ("cmp", "cmn", "tst", "ccmp"):
        return Instruction([MicroOp("I", 1, regs, ["flags"])], 1)
    if op in ("subs", "adds", "ands"):
        return Instruction([MicroOp("I", 1, regs[1:], [regs[0], "flags"])], 1)
    return Instruction([MicroOp("I", 1, regs[1:], regs[:1])], 1)


class Core:
    """State of the modelled core while it runs a loop body over and over."""

    def __init__(self, body: list[str], turns: int) -> None:
        decoded = [decode(text) for text in body]
        self.stream = [(turn, instruction) for turn in range(turns) for instruction in decoded]
        self.position = 0
        self.n_micro_ops = 0
        self.writer: dict[str, int] = {}  # register -> micro-op that writes it
        self.done: dict[int, tuple[int, int]] = {}  # micro-op -> cycle of its result, and for an accumulator
        self.queues: dict[str, list[Waiting]] = {pipe: [] for pipe in PIPES}
        self.reorder: list[int] = []
        self.last_issue: dict[int, int] = {}  # turn -> cycle of its last issue

    def has_work(self) -> bool:
        return self.position < len(self.stream) or any(self.queues.values())

    def has_room(self, ops: list[MicroOp]) -> bool:
        need: dict[str, int] = {}
        for op in ops:
            need[op.pipe] = need.get(op.pipe, 0) + 1
        in_queues = all(len(self.queues[pipe]) + count <= QUEUE_SLOTS[pipe] for pipe, count in need.items())
        return in_queues and len(self.reorder) + len(ops) <= REORDER_SLOTS

    def dispatch(self) -> None:
        budget = DECODE_WIDTH
        while self.position < len(self.stream) and budget > 0:
            turn, instruction = self.stream[self.position]
            if instruction.decode_slots > budget and budget < DECODE_WIDTH:
                break
            if not self.has_room(instruction.micro_ops):
                break
            for op in instruction.micro_ops:
                self.enqueue(op, turn)
            budget -= instruction.decode_slots
            self.position += 1

    def enqueue(self, op: MicroOp, turn: int) -> None:
        needs = [(self.writer.get(register), register == op.accumulator) for register in op.reads]
        if op.accumulator is not None:
            needs.append((self.writer.get(op.accumulator), True))
        self.n_micro_ops += 1
        for register in op.writes:
            self.writer[register] = self.n_micro_ops
        waiting = Waiting(self.n_micro_ops, op.latency, needs, op.accumulator is not None, turn)
        self.queues[op.pipe].append(waiting)
        self.reorder.append(waiting.id)

    def is_ready(self, waiting: Waiting, cycle: int) -> bool:
        for need, feeds_accumulator in waiting.needs:
            if need is not None and (need not in self.done or self.done[need][feeds_accumulator] > cycle):
                return False
        return True

    def issue(self, cycle: int) -> None:
        for pipe, width in PIPES.items():
            left = width
            kept = []
            for waiting in self.queues[pipe]:
                if left > 0 and self.is_ready(waiting, cycle):
                    to_accumulator = FMLA_TO_ACCUMULATOR if waiting.is_accumulating else waiting.latency
                    self.done[waiting.id] = (cycle + waiting.latency, cycle + to_accumulator)
                    self.last_issue[waiting.turn] = max(self.last_issue.get(waiting.turn, 0), cycle)
                    left -= 1
                else:
                    kept.append(waiting)
            self.queues[pipe] = kept

    def retire(self, cycle: int) -> None:
        n_done = 0
        while n_done < len(self.reorder):
            result = self.done.get(self.reorder[n_done])
            if result is None or result[0] > cycle + 1:
                break
            n_done += 1
        del self.reorder[:n_done]


def cycles_per_turn(body: list[str], turns: int = 24) -> float:
    """Cycles of one turn of the loop `body` (lines of disassembly) in the steady state."""
    core = Core(body, turns)
    cycle = 0
    while core.has_work():
        core.dispatch()
        core.issue(cycle)
        core.retire(cycle)
        cycle += 1
    first, last = turns // 3, turns - 3
    return (core.last_issue[last] - core.last_issue[first]) / (last - first)
