"""Where a layer's time goes, by taking work away: python bench/ablation.py [--layer IC,OC,H,W ...] [--isa NAME].

Every part is a difference between layers that have or lack it, all on the ukernel that the plan takes for the whole
layer (a layer without kernels may still be cut otherwise: tiles that overlap instead of touching):
  useful      kept multiply-adds at the FMA peak of the same run
  lanes       multiply-adds of lanes that hold no output, at the peak
  packing     one filter without kernels over all input channels; alone, so with nothing to hide behind
  ends        all filters without kernels over one input channel, on a map that stays in the cache: start and end of
              filters, shifts, carries
  outputs     the same on the whole map, less that: stores that wait for memory
  runs        the four SCPs against one SCP in every kernel (mean of one that spans two rows and one that spans
              three): mispredicted exits and pipelines that start anew
  loop        what is left: tiles and weights that stream from L2, the loop's own overhead, less what the processor
              hid of the other parts
Parts are shares of the whole; small negative ones are noise. `2 threads` is how much longer two threads take than half
of one's time.
"""

from __future__ import annotations

import argparse

from layer_bench import interleaved, layer_bench

LAYERS = ("64,64,224,224", "128,128,112,112", "256,256,56,56", "512,512,28,28", "512,512,14,14")
NO_KERNELS = ("--connectivity", 1e6)
PARTS = ("useful", "lanes", "packing", "ends", "outputs", "runs", "loop")


def parts_of(layer: str, isa: str | None) -> dict[str, float]:
    """Milliseconds of each part, of the whole, and the share that two threads lose."""
    ic, oc, h, w = map(int, layer.split(","))
    of_isa = ("--isa", isa) if isa else ()
    chosen = layer_bench("--layer", layer, *of_isa, "--runs", 1, "--no-timing")
    assert chosen is not None

    def call(ic: int, oc: int, h: int, *more: object) -> tuple[object, ...]:
        return ("--layer", f"{ic},{oc},{h},{w}", *of_isa, "--ukernel", chosen["ukernel"], *more)

    cached_rows = min(h, 2 * int(chosen["ukernel"].split("_")[3].split("x")[0]))  # two bands

    rows = interleaved(
        {
            "whole": call(ic, oc, h),
            "two threads": call(ic, oc, h, "--threads", 2),
            "two rows": call(ic, oc, h, "--patterns", "scp1"),
            "three rows": call(ic, oc, h, "--patterns", "scp2"),
            "packing": call(ic, 1, h, *NO_KERNELS),
            "ends": call(1, oc, h, *NO_KERNELS),
            "cached ends": call(1, oc, cached_rows, *NO_KERNELS),
        }
    )
    ms = {name: row["ms"] for name, row in rows.items()}
    whole = rows["whole"]
    peak = whole["useful_gflops"] / whole["peak_fraction"]
    useful = 2e-6 * whole["density"] * ic * oc * 9 * h * w / peak
    parts = {
        "useful": useful,
        "lanes": useful * (whole["lanes"] / (h * w) - 1),
        "packing": ms["packing"],
        "ends": ms["cached ends"] * h / cached_rows,
        "runs": ms["whole"] - (ms["two rows"] + ms["three rows"]) / 2,
    }
    parts["outputs"] = ms["ends"] - parts["ends"]
    parts["loop"] = ms["whole"] - sum(parts.values())
    return {**parts, "whole": ms["whole"], "2 threads": 2 * ms["two threads"] / ms["whole"] - 1}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--layer", action="append", metavar="IC,OC,H,W", help="may be repeated")
    parser.add_argument("--isa")
    args = parser.parse_args()
    print("| layer | ms | " + " | ".join(PARTS) + " | 2 threads |")
    print("|---" * (len(PARTS) + 3) + "|")
    for layer in args.layer or LAYERS:
        parts = parts_of(layer, args.isa)
        shares = (f"{100 * parts[name] / parts['whole']:.0f} %" for name in PARTS)
        print(f"| {layer} | {parts['whole']:.3f} | " + " | ".join(shares) + f" | {100 * parts['2 threads']:+.0f} % |")


if __name__ == "__main__":
    main()
