"""The commands behind `make release`, `make grade` and `make feedback`."""

import argparse
import os
import sys
import warnings
from datetime import UTC, datetime
from pathlib import Path

from .course import SOURCE, Course, Refused


def main(arguments: list[str] | None = None) -> int:
    """Run a command; 1 and one sentence where it cannot."""
    parser = argparse.ArgumentParser(prog="python -m grading", description=__doc__)
    parser.add_argument("--source", type=Path, default=SOURCE, help="the assignments' sources")
    parser.add_argument("--course", type=Path, default=Path("course"), help="where marks, gradebook and pages go")
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("release", help="make the students' notebooks and the solutions")
    grade = commands.add_parser("grade", help="grade a folder of submissions")
    grade.add_argument("submissions", type=Path)
    grade.add_argument("--deadline", type=datetime.fromisoformat, help="2026-11-30T23:59+01:00")
    grade.add_argument("--sandbox", choices=["bubblewrap", "none"], default="bubblewrap")
    grade.add_argument("--jobs", type=int, default=max(1, (os.cpu_count() or 2) // 2), help="how many at the same time")
    grade.add_argument("--again", action="store_true", help="also what has not changed since it was graded")
    commands.add_parser("feedback", help="write a page for each submission")
    options = parser.parse_args(arguments)
    warnings.filterwarnings("ignore", module="nbgrader")  # what it says of SQLAlchemy is not for an instructor
    os.environ["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])  # for nbgrader
    try:
        if options.command == "release":
            from .release import release

            for path in release(options.source):
                print(path)
            return 0
        course = Course(options.course, options.source)
        if options.command == "feedback":
            from .feedback import feedback

            print(feedback(course))
            return 0
        from .grade import grade as grade_all

        end = options.deadline.astimezone(UTC) if options.deadline else None
        sandboxed = options.sandbox != "none"
        folder, source = options.submissions.resolve(), options.source.resolve()
        print(grade_all(course, folder, source, end, sandboxed, options.jobs, options.again))
        return 0
    except Refused as refused:
        print(refused, file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
