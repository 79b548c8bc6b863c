"""What every explorer is: labelled controls, an answer that follows them, and a still picture for the saved page.

    controls -> values -> answer(values) -> HTML.value

`answer` is a pure function of the values, so it is tested without a browser. What it returns goes to the page through
trait values alone, never through captured output: that is faster, and strict nbval has nothing to compare.

    class Square(Explorer):
        heading = "Square"
        parts = ("result",)

        def __init__(self, name=None):
            super().__init__({"x": labelled(widgets.IntSlider, "side", "the square's side", value=3)}, name=name)

        def answer(self, values):
            return {"result": f"area {values['x'] ** 2}"}

Source: ipywidgets 8; the roles `alert` and `group` are those of WAI-ARIA.
"""

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from html import escape
from threading import RLock
from typing import Any, ClassVar, TypeVar

import ipywidgets as widgets
from matplotlib.figure import Figure

from peft_lessons import remember
from peft_lessons.figures import show

Control = TypeVar("Control", bound=widgets.DOMWidget)

# JupyterLab has two threads of the kernel handle a page's messages (subshells), and building a model sets PyTorch's
# default type for both of them: without turns an answer can be wrong, or an older one can replace a newer.
TURN = RLock()

STYLE = """<style>
.peft-explorer .widget-html-content, .peft-explorer h3 {
  color: var(--jp-content-font-color1, var(--jp-ui-font-color1, #111)); line-height: 1.4; }
.peft-explorer h3 { margin: 4px 0; }
.peft-explorer .peft-previous { opacity: 0.35; }
.peft-explorer .peft-alert { border-left: 4px solid #D55E00; padding: 6px 10px; margin: 4px 0; font-size: 14px; }
.peft-explorer table.peft { border-collapse: collapse; font-size: 13px; font-variant-numeric: tabular-nums; }
.peft-explorer table.peft caption { text-align: left; font-weight: 600; padding: 4px 0; }
.peft-explorer table.peft th, .peft-explorer table.peft td {
  padding: 2px 12px 2px 0; border-bottom: 1px solid rgba(128, 128, 128, 0.35); text-align: right; }
.peft-explorer table.peft th:first-child { text-align: left; }
.peft-explorer .peft-row { display: flex; flex-wrap: wrap; gap: 4px 16px; }
.peft-explorer figure { margin: 0; }
.peft-explorer figcaption { font-size: 12px; max-width: 230px; }
.peft-explorer :focus-visible { outline: 2px solid #0072B2; outline-offset: 1px; }
</style>"""

# In JupyterLab's command mode the notebook takes arrow keys, letters and Enter from a list that has the focus (known as
# ipywidgets issue 3912), and a slider's handle has no name. Inside explorers, whatever gets the focus keeps its keys,
# and a handle gets its label.
KEYS = """if (!window.peftExplorers) {
  window.peftExplorers = true;
  document.addEventListener('focusin', ({target}) => {
    if (!target.closest('.peft-explorer')) return;
    target.setAttribute('data-lm-suppress-shortcuts', 'true');
    const slider = target.closest('.widget-slider');
    if (slider) target.setAttribute('aria-label', slider.querySelector('label').textContent);
  });
}"""
PIXEL = "data:image/gif;base64,R0lGODlhAQABAIAAAAAAAP///yH5BAEAAAAALAAAAAABAAEAAAIBRAA7"
PAGE = f'{STYLE}<img alt="" hidden src="{PIXEL}" onload="{escape(KEYS)}">'  # a script in a widget's HTML would not run


@dataclass(frozen=True)
class Still:
    """What stands for an explorer where no kernel runs: a figure, its alternative text, and a plain table."""

    figure: Figure
    alt: str
    table: str


def labelled(kind: type[Control], label: str, tip: str, **traits: Any) -> Control:
    """A control with a visible label and a tooltip, wide enough for its label.

    Args:
        kind: the ipywidgets class, such as `IntSlider`.
        label: what stands beside the control.
        tip: one line on what it does, shown under the pointer.
        traits: passed to the class.

    Returns:
        The control.

    Raises:
        ValueError: the label or the tip is empty.
    """
    if not label.strip() or not tip.strip():
        raise ValueError(f"A control's label is {label!r} and its tip {tip!r}; both need words.")
    layout = {"width": "22em", "max_width": "100%"} | traits.pop("layout", {})
    return kind(description=label, tooltip=tip, layout=widgets.Layout(**layout), **traits)


class Explorer(widgets.VBox):
    """Controls above, the answer's parts below; a subclass says which, and what the answer is.

    A problem (any exception of `answer`) is shown in words in the explorer itself, over the last good answer, which
    stays, dimmed. With a name, the controls' values are kept in a small file, see `remember`.

    Args:
        controls: key -> control, in the order of the page. Those that other controls depend on come first.
        name: what to remember the values under; None for no memory.
    """

    heading: ClassVar[str]
    parts: ClassVar[tuple[str | tuple[str, ...], ...]]  # from top to bottom; a tuple stands side by side

    def __init__(self, controls: Mapping[str, widgets.DOMWidget], *, name: str | None = None):
        self.controls = dict(controls)
        self.problem = ""  # the sentence shown, empty where all is well
        self._name = name
        self._held = True
        self._fault: Exception | None = None  # of `adjust`, to be shown instead of an answer
        self._fit("")
        self._defaults = self.values
        self._alert = widgets.HTML()
        self._rows = [(row,) if isinstance(row, str) else row for row in self.parts]
        self._shown = {part: "" for row in self._rows for part in row}
        self._results = widgets.HTML()  # one trait for all parts: one message a redraw
        self.reset_button = widgets.Button(description="Reset", tooltip="all controls as they were at first")
        self.reset_button.on_click(lambda _: self.reset())
        beside = [c.description for c in self.controls.values() if not isinstance(c, widgets.Checkbox)]
        wide = f"{1 + max(map(len, beside), default=0)}ch"
        for key, control in self.controls.items():
            if hasattr(control.style, "description_width"):
                control.style.description_width = wide
            control.observe(lambda _, key=key: self._changed(key), "value")
        flow = widgets.Layout(flex_flow="row wrap", align_items="center", grid_gap="2px 24px")
        box = widgets.Box((*self.controls.values(), self.reset_button), layout=flow)
        top = widgets.HTML(f"{PAGE}<h3>{escape(self.heading)}</h3>")
        super().__init__((top, box, self._alert, self._results))
        self.add_class("peft-explorer")
        with TURN:
            self._restore(remember.load("explorers", name))
            self._held = False
            self.redraw()

    def answer(self, values: Mapping[str, Any]) -> Mapping[str, str]:
        """The HTML of each part, from the values alone.

        Args:
            values: key -> value of every control.

        Returns:
            part -> HTML; a part that is left out keeps what it shows.
        """
        raise NotImplementedError

    def adjust(self, changed: str) -> None:
        """Make controls that depend on others fit, such as a slider's maximum; called before each answer.

        Args:
            changed: the key of the control that changed; empty at the start.
        """

    def still(self, values: Mapping[str, Any]) -> Still:
        """The same answer as a figure and a table for a page without a kernel."""
        raise NotImplementedError

    @property
    def values(self) -> dict[str, Any]:
        """key -> value of every control, as it stands."""
        return {key: control.value for key, control in self.controls.items()}

    @property
    def shown(self) -> dict[str, str]:
        """part -> the HTML that is on the page."""
        return dict(self._shown)

    def choose(self, **values: Any) -> None:
        """Set several controls, and redraw once.

        Raises:
            LookupError: there is no such control; the message lists those there are.
            TraitError: a control cannot take its value.
        """
        for key in values:
            if key not in self.controls:
                raise LookupError(f'There is no control "{key}"; there are {", ".join(self.controls)}.')
        with TURN:
            with self._hold():
                for key in [key for key in self.controls if key in values]:
                    self.controls[key].value = values[key]
                    self._fit(key)
            self._settle()

    def reset(self) -> None:
        """All controls as they were before anything was remembered or moved."""
        self.choose(**self._defaults)

    def redraw(self) -> None:
        """Show the answer to the values as they stand, or the problem with them."""
        fault, self._fault = self._fault, None
        try:
            if fault is not None:
                raise fault
            answer = self.answer(self.values)
        except Exception as error:  # whatever it is, the reader sees it here and not in a server's log
            said = str(error.args[0]) if isinstance(error, KeyError) and error.args else str(error)
            expected = isinstance(error, ValueError | LookupError | RuntimeError | OSError) and said
            self.problem = said if expected else f"{type(error).__name__}: {error}"
            before = " The answer below is the one before." if self._results.value else ""
            alert = f'<div role="alert" class="peft-alert"><b>Not possible.</b> {escape(self.problem)}{before}</div>'
            self._alert.value = alert
            self._results.add_class("peft-previous")
            return
        self._shown |= answer
        self._results.value = "".join(
            f'<div class="peft-row">{"".join(f"<div>{self._shown[part]}</div>" for part in row)}</div>'
            for row in self._rows
        )
        if self.problem:
            self.problem = self._alert.value = ""
            self._results.remove_class("peft-previous")

    def static(self, **values: Any) -> None:
        """Display the figure and print the table of `still`, for the saved notebook, GitHub and paper.

        Args:
            values: key -> value where it differs from the first one; what a reader has moved does not count.
        """
        with TURN:
            still = self.still(self._defaults | values)
        show(still.figure, still.alt)
        print(still.table)

    def __repr__(self) -> str:
        return f"{self.heading}: run this cell in Jupyter to move its controls."

    @contextmanager
    def _hold(self) -> Iterator[None]:
        """No redraw inside."""
        before, self._held = self._held, True
        try:
            yield
        finally:
            self._held = before

    def _changed(self, key: str) -> None:
        with TURN, ExitStack() as after:  # what `adjust` does to other controls is sent after the answer, waited for
            if self._held:
                return
            for control in self.controls.values():
                after.enter_context(control.hold_sync())
            with self._hold():
                self._fit(key)
            self._settle()

    def _fit(self, changed: str) -> None:
        """Adjust the other controls; an error in that is shown by the next redraw."""
        try:
            self.adjust(changed)
        except Exception as error:
            self._fault = error

    def _settle(self) -> None:
        self.redraw()
        if not self.problem:
            remember.store("explorers", self._name, self.values)

    def _restore(self, stored: Mapping[str, Any]) -> None:
        """Take over what still fits, value by value: a control takes it, and there is an answer to it."""
        for key, control in self.controls.items():
            before = control.value
            if key not in stored or type(stored[key]) is not type(before) or stored[key] == before:
                continue
            try:
                control.value = stored[key]
                self.adjust(key)
                self.answer(self.values)
            except Exception:  # an old file is no reason to greet a reader with an error
                control.value = before
                self._fit(key)
