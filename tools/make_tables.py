"""Build the tables that ship with the course: for each shape of data/shapes, the setups people ask about first.

`python tools/make_tables.py [NAME ...]` writes data/tables/NAME.npz. What is not among them is built on demand.
"""

import argparse
import time
from collections.abc import Iterator

from transformers.utils import logging

from peft_lessons.accounting.building import build_table
from peft_lessons.accounting.library import TABLES, load_shape, setup_key, shape_names, write_tables
from peft_lessons.accounting.setups import Setup, kind_of
from peft_lessons.methods import FullFineTuning, Head, LoRA


def common_setups(kind: str) -> Iterator[Setup]:
    """Full fine-tuning, head, LoRA; every type of weights and adapters; with and without checkpointing and chunks."""
    for checkpointing in (False, True):
        for logits in ("kept", "chunked") if kind == "decoder" else ("kept",):
            rest = {"checkpointing": checkpointing, "logits": logits}
            for weights in ("bfloat16", "float32"):
                yield Setup(FullFineTuning(), weights=weights, **rest)
            for method in (FullFineTuning(), LoRA(), LoRA(target_modules="all-linear")):
                yield Setup(method, weights="float32", autocast=True, **rest)
            for weights in ("bfloat16", "float32", "nf4") if kind != "encoder-decoder" else ("bfloat16", "float32"):
                yield Setup(Head(), weights=weights, **rest)
                for targets in ("attention", "all-linear"):
                    for adapters in ("float32", "bfloat16") if weights != "float32" else ("float32",):
                        yield Setup(LoRA(target_modules=targets), weights=weights, adapters=adapters, **rest)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", help="shapes; all where none is named")
    logging.set_verbosity_error()
    TABLES.mkdir(exist_ok=True)
    for name in parser.parse_args().names or shape_names():
        begun, config = time.perf_counter(), load_shape(name)
        setups = list(common_setups(kind_of(config)))
        content = write_tables({setup_key(s): build_table(config, s) for s in setups})
        (TABLES / f"{name}.npz").write_bytes(content)
        seconds = (time.perf_counter() - begun) / len(setups)
        print(f"{name:<16} {len(setups)} tables, {len(content) / 1024:,.0f} KiB, {seconds:.2f} s each", flush=True)
