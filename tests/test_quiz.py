"""Each lesson's quiz: its questions are whole, an option chosen is explained, and the choice is kept."""

from pathlib import Path

import check_notebooks as rules
import nbformat
import pytest

from peft_lessons import remember
from peft_lessons.bases import DATA
from peft_lessons.explorers.quiz import Quiz, load_quiz
from peft_lessons.progress import progress

LESSONS = [path for path in rules.lessons() if path.parent.name == "notebooks"]
QUIZZES = sorted(path.stem for path in (DATA / "quizzes").glob("*.toml"))


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PEFT_LESSONS_HOME", str(tmp_path))
    monkeypatch.delenv("SERVER_SOFTWARE", raising=False)


def test_each_lesson_has_one_and_shows_it() -> None:
    assert [path.stem for path in LESSONS] == QUIZZES
    for path in LESSONS:
        code = [cell.source for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == "code"]
        assert code[-1].endswith(f'Quiz("{path.stem}")')


@pytest.mark.parametrize("lesson", QUIZZES)
def test_questions_are_whole(lesson: str) -> None:
    questions = load_quiz(lesson)
    assert len(questions) >= 4
    for question in questions:
        assert sum(option.right for option in question.options) == 1 and len(question.options) >= 3
        assert len({option.says for option in question.options}) == len(question.options)
        assert all(len(option.why) > 20 for option in question.options)


def test_the_right_option_has_no_fixed_place() -> None:
    places = [
        [option.right for option in question.options].index(True) for name in QUIZZES for question in load_quiz(name)
    ]
    assert all(places.count(place) > len(places) / 4 for place in range(3))


def test_the_right_option_is_not_told_by_its_length() -> None:
    longest, shortest, questions = 0, 0, [question for name in QUIZZES for question in load_quiz(name)]
    for question in questions:
        lengths = sorted((len(option.says), option.right) for option in question.options)
        shortest, longest = shortest + lengths[0][1], longest + lengths[-1][1]
    assert longest < 0.45 * len(questions) and shortest < 0.45 * len(questions)


def test_an_option_chosen_is_explained_and_kept(capsys: pytest.CaptureFixture[str]) -> None:
    made = Quiz("07_lora")
    assert repr(made) == f"Quiz(07_lora: {len(made.questions)} questions)" and made.right() == 0
    for n, question in enumerate(made.questions):
        right = [option.right for option in question.options].index(True)
        made.choices[n].index = (right + 1) % len(question.options)
        assert made.explanations[n].value.startswith('<p role="status"><b>No.</b> ')
        made.choices[n].index = right
        assert question.options[right].why.split("&")[0].split("'")[0][:20] in made.explanations[n].value
    assert made.right() == len(made.questions)
    again = Quiz("07_lora")
    assert [choice.index for choice in again.choices] == [choice.index for choice in made.choices]
    assert again.explanations[0].value == made.explanations[0].value
    progress()
    assert "quiz 07_lora" in capsys.readouterr().out


def test_a_choice_of_an_option_that_has_been_reworded_is_forgotten() -> None:
    question = load_quiz("07_lora")[0]
    remember.store("quizzes", "07_lora", {question.asks: "an older wording"})
    assert Quiz("07_lora").choices[0].index is None


def test_a_lesson_without_one_is_named() -> None:
    with pytest.raises(LookupError, match='no quiz for "99_all"; there is one for 00_start_here, '):
        Quiz("99_all")
