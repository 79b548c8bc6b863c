"""The quiz at a lesson's end: choose an option, read why it is right or not.

What was chosen is kept on this machine alone, see `remember`, and counted by `progress`.

Source: the questions are in `data/quizzes/LESSON.toml`; what they claim is their lesson's, with its sources.
"""

import tomllib
from dataclasses import dataclass
from html import escape

import ipywidgets as widgets

from peft_lessons import remember
from peft_lessons.bases import DATA
from peft_lessons.progress import record

FOLDER = "quizzes"


@dataclass(frozen=True)
class Option:
    """One answer that can be chosen, and why it is right or not."""

    says: str
    why: str
    right: bool = False


@dataclass(frozen=True)
class Question:
    """A question and its options, of which one is right."""

    asks: str
    options: tuple[Option, ...]


def load_quiz(lesson: str) -> tuple[Question, ...]:
    """The questions of a lesson such as "07_lora", their options in the order of the file.

    Raises:
        LookupError: it has no quiz; the message lists those that have one.
    """
    file = DATA / FOLDER / f"{lesson}.toml"
    if not file.exists():
        known = ", ".join(sorted(path.stem for path in file.parent.glob("*.toml")))
        raise LookupError(f'There is no quiz for "{lesson}"; there is one for {known}.')
    found = tomllib.loads(file.read_text(encoding="utf-8"))["questions"]
    return tuple(Question(q["asks"], tuple(Option(**option) for option in q["options"])) for q in found)


class Quiz(widgets.VBox):
    """A lesson's questions, each with its options as radio buttons and the explanation of the one chosen.

    Args:
        lesson: the notebook's name without its ending.

    Raises:
        LookupError: the lesson has no quiz.
    """

    def __init__(self, lesson: str):
        self.lesson, self.questions = lesson, load_quiz(lesson)
        before = remember.load(FOLDER, lesson)
        self.choices = [self._radio(question, before.get(question.asks)) for question in self.questions]
        self.explanations = [widgets.HTML() for _ in self.questions]
        rows: list[widgets.DOMWidget] = []
        for n, question in enumerate(self.questions):
            asks = widgets.HTML(f"<p><b>{n + 1}.</b> {escape(question.asks)}</p>")
            rows += [asks, self.choices[n], self.explanations[n]]
            self._explain(n)
            self.choices[n].observe(lambda _, n=n: self._changed(n), "index")
        super().__init__(rows)

    def right(self) -> int:
        """How many of the options chosen are right."""
        pairs = zip(self.choices, self.questions, strict=True)
        return sum(choice.index is not None and question.options[choice.index].right for choice, question in pairs)

    @staticmethod
    def _radio(question: Question, before: object) -> widgets.RadioButtons:
        options = [option.says for option in question.options]
        value = before if before in options else None
        return widgets.RadioButtons(options=options, value=value, layout=widgets.Layout(width="100%"))

    def _changed(self, n: int) -> None:
        self._explain(n)
        pairs = zip(self.questions, self.choices, strict=True)
        remember.store(FOLDER, self.lesson, {q.asks: c.value for q, c in pairs if c.value is not None})
        record(f"quiz {self.lesson}", self.right(), len(self.questions))

    def _explain(self, n: int) -> None:
        index = self.choices[n].index
        if index is not None:
            option = self.questions[n].options[index]
            verdict = "Right." if option.right else "No."
            self.explanations[n].value = f'<p role="status"><b>{verdict}</b> {escape(option.why)}</p>'

    def __repr__(self) -> str:
        return f"Quiz({self.lesson}: {len(self.questions)} questions)"
