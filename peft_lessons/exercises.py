"""What the lessons' question cells call: a guess beside the answer, and an instant check of a learner's answer."""

from collections.abc import Callable

from peft_lessons.progress import record

NOT_ATTEMPTED = "not attempted yet"


def show_guess(guess: object, answer: object, unit: str = "") -> None:
    """Print a guess and the answer side by side; an untouched guess (None) is no mistake."""
    mine = "no guess yet" if guess is None else f"{guess} {unit}".strip()
    print(f"your guess: {mine}   the answer: {answer} {unit}".rstrip())


def check_answer(name: str, answer: object, is_right: Callable[[object], bool | str], hint: str) -> None:
    """Check a learner's answer at once: not attempted, right, or not yet with a hint that does not give it away.

    Whether it is right is kept on this machine, for `progress`.

    Args:
        name: the exercise: its lesson and what it asks for, such as "07.largest_rank".
        answer: None while the exercise is untouched.
        is_right: told the answer, says whether it is right, or in a sentence what is wrong with it; an exception counts
            as not right, and is shown.
        hint: one sentence on what to look at, where nothing better is known.
    """
    if answer is None:
        print(NOT_ATTEMPTED)
        return
    try:
        found = is_right(answer)
        said = "" if found and not isinstance(found, str) else str(found or hint)
    except NotImplementedError:
        print(NOT_ATTEMPTED)
        return
    except Exception as error:  # the learner's own code may raise anything, and should see what
        said = f"{type(error).__name__}: {error}"
    record(name, int(not said), 1)
    print(f"not yet: {said}" if said else "right")
