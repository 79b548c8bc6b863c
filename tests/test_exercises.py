"""The question cells: untouched, wrong, broken and right answers each print one line."""

import pytest

from peft_lessons.exercises import check_answer, show_guess
from peft_lessons.progress import progress


def unsolved():
    raise NotImplementedError


@pytest.mark.parametrize(
    ("answer", "is_right", "line"),
    [
        (None, lambda n: n == 3, "not attempted yet"),
        (unsolved, lambda f: f() == 3, "not attempted yet"),
        (2, lambda n: n == 3, "not yet: count again"),
        ("three", lambda n: n + 1 == 4, "not yet: TypeError: can only concatenate str"),
        (2, lambda n: n == 3 or "one too few", "not yet: one too few"),
        (2, lambda n: "" if n == 2 else True, "not yet: count again"),
        (3, lambda n: n == 3 or "one too few", "right"),
        (3, lambda n: n == 3, "right"),
    ],
)
def test_check_answer(answer, is_right, line, capsys):
    check_answer("00.number", answer, is_right, "count again")
    printed = capsys.readouterr().out
    assert printed.startswith(line) and printed.count("\n") == 1


def test_what_was_tried_is_kept(monkeypatch, tmp_path, capsys):
    monkeypatch.setenv("PEFT_LESSONS_HOME", str(tmp_path))
    for name, answer in {"00.untouched": None, "00.wrong": 2, "00.right": 3}.items():
        check_answer(name, answer, lambda n: n == 3, "count again")
    check_answer("00.right", 2, lambda n: n == 3, "count again")  # the best outcome stays
    capsys.readouterr()
    progress()
    assert [line.split()[:2] for line in capsys.readouterr().out.splitlines()] == [["00.right", "1"], ["00.wrong", "0"]]


def test_guesses(capsys):
    show_guess(None, 5, "percent")
    show_guess(7, 5, "percent")
    assert capsys.readouterr().out.splitlines() == [
        "your guess: no guess yet   the answer: 5 percent",
        "your guess: 7 percent   the answer: 5 percent",
    ]
