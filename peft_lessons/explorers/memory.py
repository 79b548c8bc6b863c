"""The memory explorer: what one training step holds, to the byte, for any model, method and setup.

`explore_memory()` knows the shipped shapes; `explore_memory(config, "path/to/config.json", model)` adds others. The
arithmetic is that of `accounting.tables`, `accounting.advice`, `accounting.explain` and `accounting.rules`.

Source: those modules name theirs.
"""

import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from html import escape
from typing import Any

import ipywidgets as widgets
import matplotlib.pyplot as plt
from transformers import PretrainedConfig
from transformers.utils import logging

from peft_lessons.accounting.advice import fits, largest_batch, longest, overhead, silent_switches, suggestions
from peft_lessons.accounting.explain import Term, terms
from peft_lessons.accounting.library import load_shape, load_table, table_at_hand
from peft_lessons.accounting.memory import closed_form
from peft_lessons.accounting.rules import Inputs, inputs_of, judge
from peft_lessons.accounting.setups import Setup, build_on_meta
from peft_lessons.accounting.step import CATEGORIES
from peft_lessons.accounting.tables import Table
from peft_lessons.explorers import memory_parts as parts
from peft_lessons.explorers.base import PIXEL, Explorer, Still
from peft_lessons.explorers.memory_controls import (
    OWN,
    PAIRS,
    Source,
    check_sizes,
    controls_of,
    hyperparameters,
    known_models,
    methods,
    positions,
    read_config,
    setup_of,
    with_attention,
)
from peft_lessons.figures import plot_step
from peft_lessons.methods import FullFineTuning

# A fold that was open stays open when the answer is drawn anew.
FOLDS = """const box = this.closest('.peft-explorer');
if (box && !box.folds) {
  box.folds = {};
  box.addEventListener('toggle', ({target}) => {
    if (target.isConnected) box.folds[target.dataset.fold] = target.open; }, true);
  new MutationObserver(() => box.querySelectorAll('details').forEach(
    (fold) => { fold.open = !!box.folds[fold.dataset.fold]; })).observe(box, {childList: true, subtree: true});
}"""


@contextmanager
def quiet() -> Iterator[None]:
    """What transformers says while a model is built is not for the page."""
    before = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.set_verbosity(before)


def _derived(config: PretrainedConfig, setup: Setup, batch: int, length: int) -> list[Term]:
    """The closed form's terms where there is one, else none."""
    try:
        return closed_form(config, setup, batch, length)
    except ValueError:
        return []


def explore_memory(*sources: Any, name: str | None = None, **initial: Any) -> "MemoryExplorer":
    """Show what a training step holds: the shipped shapes, and any models that are given.

    Args:
        sources: configurations, paths of config.json files, or models that have a configuration; the first is shown.
        name: what to remember the controls under, so that they stand as they were left; None for no memory.
        initial: control -> value to begin with, such as `method="LoRA", LoRA_r=16, batch=4`.

    Returns:
        The explorer: the last expression of a cell shows it, and its `static()` prints the same for paper.

    Raises:
        ValueError: a source holds no configuration of a transformers model.
        FileNotFoundError: there is no such file.
        LookupError: there is no such control.

    Source: see the module.
    """
    return MemoryExplorer(known_models(sources), initial, name=name)


class MemoryExplorer(Explorer):
    """Move model, method, setup and sizes, and see what a step holds; made by `explore_memory`.

    Args:
        models: label -> what `load_table` takes.
        initial: control -> value to begin with.
        name: what to remember the controls under; None for no memory.

    Raises:
        LookupError: there is no such control.
    """

    heading = "Memory: what one training step holds"
    parts = ("total", "bars", "curve", "fits", ("first", "silent"), "terms", "rules")

    def __init__(
        self, models: Mapping[str, Source], initial: Mapping[str, Any] | None = None, *, name: str | None = None
    ):
        self.models = dict(models)
        self._configs: dict[str, PretrainedConfig] = {}
        self._counted: dict[str, Inputs] = {}
        controls = controls_of(self.models)
        for key, value in (initial or {}).items():
            if key not in controls:
                raise LookupError(f'There is no control "{key}"; there are {", ".join(controls)}.')
            controls[key].value = value
        self.progress = widgets.IntProgress(description="tracing this setup", max=1)
        self.progress.layout.visibility = "hidden"
        self.progress.style.description_width = "initial"
        super().__init__(controls, name=name)
        top, box, *rest = self.children  # type: ignore[has-type]
        top.value += f'<img alt="" hidden src="{PIXEL}" onload="{escape(FOLDS)}">'
        self.children = (top, box, self.progress, *rest)

    def adjust(self, changed: str) -> None:
        """The slider and the typed number are one; only the method's own hyperparameters are on the page."""
        c = self.controls
        if changed in ("", "model", "config"):
            c["config"].layout.display = None if c["model"].value == OWN else "none"
            _, config = self._model(self.values)
            most = positions(config)
            c["length_slider"].max = min(most or PAIRS["length"], PAIRS["length"]) // 8 * 8
            if most is not None and c["length"].value > most:
                c["length"].value = most // 8 * 8
        if changed in ("", "method"):
            for name, method in methods().items():
                for field in hyperparameters(method):
                    for key in (f"{name}_{field.name}", f"{name}_{field.name}_slider"):
                        if key in c:
                            c[key].layout.display = None if name == c["method"].value else "none"
        for key in [key for key in c if key.endswith("_slider")]:
            typed = c[key.removesuffix("_slider")]
            if changed == key:
                typed.value = c[key].value
            elif c[key].min <= typed.value <= c[key].max:
                c[key].value = typed.value

    def answer(self, values: Mapping[str, Any]) -> dict[str, str]:
        """The peak, its pieces and place, the curve, what fits and what to change; see `parts`.

        Raises:
            ValueError: a size, a choice or a configuration that is not possible, or two that exclude each other.
        """
        source, config = self._model(values)
        setup, sizes = setup_of(values), self._sizes(values, config)
        table = self._table(source, setup, values)
        layers, batch, length, rank, optimizer = sizes
        answer = table.evaluate(*sizes)
        curve = parts.Curve(*table.curve(*sizes))
        paged = answer.at_peak["optimizer states"] if "paged" in optimizer else 0
        card, most = values["card"], positions(config)
        fitting = fits(answer.peak)
        at_length = largest_batch(table, layers, length, rank, optimizer, card)
        at_batch = longest(table, layers, batch, rank, optimizer, card, most)
        verdicts = judge(self._inputs(values, setup), curve)
        return {
            "total": parts.headline(answer, paged, overhead()),
            "bars": parts.bars_chart(answer, curve, card),
            "curve": parts.curve_chart(answer, curve),
            "fits": parts.fits_table(fitting, card, at_batch, at_length, batch, length),
            "first": parts.changes_list(suggestions(source, setup, layers, batch, length, rank), answer.peak),
            "silent": parts.switches_list(silent_switches(config, setup)),
            "terms": parts.terms_fold(terms(table, *sizes), _derived(config, setup, batch, length), answer.peak),
            "rules": parts.rules_fold(verdicts),
        }

    def still(self, values: Mapping[str, Any]) -> Still:
        """The curve and the categories as a figure and a table."""
        source, config = self._model(values)
        setup, sizes = setup_of(values), self._sizes(values, config)
        table = self._table(source, setup, values)
        answer = table.evaluate(*sizes)
        curve = parts.Curve(*table.curve(*sizes))
        fig, ax = plt.subplots(figsize=(8, 3.6), layout="constrained")
        plot_step(ax, curve.moments / parts.GiB, CATEGORIES, curve.begins)
        label, (_, batch, length, _, optimizer) = self._label(values), sizes
        ax.set_ylabel("GiB held")
        ax.legend(loc="center left", bbox_to_anchor=(1, 0.5), reverse=True)
        alt = f"What a step of {label} holds, by category; the peak of {parts.gib(answer.peak)} GiB is {answer.place}."
        return Still(
            fig,
            alt,
            parts.plain_table(
                f"{label}, {setup.method}, {setup.weights}, {optimizer}, batch {batch}, length {length}", answer, curve
            ),
        )

    def _table(self, source: Source, setup: Setup, values: Mapping[str, Any]) -> Table:
        """The table of a model and a setup, with a progress bar where it has to be traced first.

        Raises:
            ValueError: the setup does not fit the model, the length does not, or the rank is above a matrix's.
        """
        _, config = self._model(values)
        check_sizes(config, self._label(values), setup, values["length"])
        table = table_at_hand(source, setup)
        if table is None:
            try:
                with quiet():
                    table = load_table(source, setup, self._trace)
            finally:
                self.progress.layout.visibility = "hidden"
        rank, most = values.get(f"{values['method']}_r", 1), table.largest_rank
        if most is not None and rank > most:
            raise ValueError(
                f"r is {rank:,}; the smallest matrix that {values['method']} updates has ranks up to {most:,}."
            )
        return table

    def _trace(self, done: int, of: int) -> None:
        """Move the progress bar, whose room is kept when it is hidden, so that nothing jumps under the pointer."""
        self.progress.max, self.progress.value = of, done
        self.progress.layout.visibility = "visible"

    def _inputs(self, values: Mapping[str, Any], setup: Setup) -> Inputs:
        """What rules of thumb ask for; a model is counted once."""
        key = values["config"] if values["model"] == OWN else values["model"]
        if key not in self._counted:
            with quiet():
                self._counted[key] = inputs_of(build_on_meta(self._configs[key], Setup(FullFineTuning())), 1, 1)
        size = {"float32": 4.0, "bfloat16": 2.0, "nf4": 0.5}[setup.weights]
        given = {"batch": values["batch"], "length": values["length"], "checkpointing": setup.checkpointing}
        return replace(self._counted[key], bytes_per_value=size, **given)

    def _restore(self, stored: Mapping[str, Any]) -> None:
        """All at once where they still fit together, so that no setup between is traced; else value by value."""
        fitting = {
            key: stored[key]
            for key, control in self.controls.items()
            if key in stored and type(stored[key]) is type(control.value)
        }
        before = self.values
        try:
            for key, value in fitting.items():
                self.controls[key].value = value
                self.adjust(key)
            self.answer(self.values)
        except Exception:  # an old file is no reason to greet a reader with an error
            for key, value in before.items():
                self.controls[key].value = value
                self._fit(key)
            super()._restore(stored)

    def _label(self, values: Mapping[str, Any]) -> str:
        return "your configuration" if values["model"] == OWN else values["model"]

    def _model(self, values: Mapping[str, Any]) -> tuple[Source, PretrainedConfig]:
        """What `load_table` takes, and the configuration; each is read once."""
        own = values["model"] == OWN
        key = values["config"] if own else values["model"]
        if key not in self._configs:
            self._configs[key] = with_attention(read_config(key) if own else load_shape(self.models[key]))
        config = self._configs[key]
        return (config if own else self.models[key]), config

    def _sizes(self, values: Mapping[str, Any], config: PretrainedConfig) -> tuple[int, int, int, int, str]:
        rank = values.get(f"{values['method']}_r", 1)
        return config.num_hidden_layers, values["batch"], values["length"], rank, values["optimizer"]
