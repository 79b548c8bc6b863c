"""What a learner has done so far, from a file on the learner's own machine that nobody else sees.

Source: the file is `remember`'s, `course/progress.json` in the folder that it names; delete it to start over.
"""

from peft_lessons import remember

FOLDER, NAME, GUESSES = "course", "progress", "guesses"


def record(name: str, points: int, most: int) -> None:
    """Keep the outcome of an exercise or quiz; the best one stays, for a later try may be an experiment."""
    found = remember.load(FOLDER, NAME)
    before = found.get(name)
    best = before[0] if isinstance(before, list) and before[1:] == [most] else 0
    remember.store(FOLDER, NAME, found | {name: [max(best, points), most]})


def record_guess(name: str, guess: object) -> None:
    """Keep a guess, made before the answer is worked out; None is no guess yet."""
    if guess is None:
        print("no guess yet")
        return
    remember.store(FOLDER, GUESSES, remember.load(FOLDER, GUESSES) | {name: str(guess)})
    print(f"kept: {guess}")


def progress() -> None:
    """Print each exercise and quiz that was tried, with the points reached at best, and each guess that was kept."""
    found = remember.load(FOLDER, NAME)
    if not found:
        print("Nothing tried yet: the assignments' checks and the lessons' quizzes are kept here.")
    for name in sorted(found):
        points, most = found[name]
        bar = "#" * round(10 * points / most) if most else ""
        print(f"{name:<32} {points:>3} of {most:<3} {bar}")
    for name, guess in sorted(remember.load(FOLDER, GUESSES).items()):
        print(f"{name:<32} guessed {guess}")
