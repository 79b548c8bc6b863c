"""A sandbox for one submission: bubblewrap's namespaces around it, and a watch over what it uses.

Inside there is a read-only system, Python, `peft_lessons` and `data`, and one folder to write in: no network, no home,
no other process, none of the rest of this machine. The watch ends all of it when it takes too long, or uses too much
memory, disk or too many processes. Both are needed: namespaces hide, and do not count.

Source: bubblewrap (github.com/containers/bubblewrap), the sandbox of Flatpak; of nbgrader's own documentation, that it
runs a student's code with the grader's rights.
"""

import functools
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict
from pathlib import Path

import psutil

from .course import ROOT, Limits, Refused

INSIDE = Path(__file__).with_name("inside.py")
LEARNERS = ("peft_lessons", "data")  # what of the project is there inside
ETC = ("ld.so.cache", "ld.so.conf", "ld.so.conf.d", "alternatives")
EXCHANGE = Path("/usr/local/share/nbgrader")  # where a JupyterHub's nbgrader keeps what everyone handed in
MOST_FILES = 5000
THREADS = 16  # for each process that is allowed
LEFT_TO_THE_MACHINE = 300 * 2**20
INTERVAL = 0.1
NO_MEMORY = "this machine had no memory left, which may be another's doing, and the next run tries again"
CROWDED = 86  # the exit status of a run that has itself seen too many processes


@contextmanager
def box() -> Iterator[Path]:
    """A folder for one run, that is gone afterwards whatever was put into it."""
    folder = Path(tempfile.mkdtemp(prefix="grading-"))
    for name in ("work", "run", "told", "tmp", "shm"):
        (folder / name).mkdir()
    try:
        yield folder
    finally:  # not shutil.rmtree, which a chain of a thousand folders ends; first open what was closed
        subprocess.run(["chmod", "-R", "u+rwX", "--", str(folder)], stderr=subprocess.DEVNULL, check=False)
        subprocess.run(["rm", "-rf", "--", str(folder)], stderr=subprocess.DEVNULL, check=False)


def bubblewrap(folder: Path, extra: Path | None = None) -> list[str]:
    """The command line, up to the program, that sees `folder` as /box and of the rest only what it needs."""
    command = ["bwrap", "--unshare-all", "--die-with-parent", "--new-session", "--hostname", "sandbox"]
    command += ["--cap-drop", "ALL", "--ro-bind", "/usr", "/usr", "--proc", "/proc", "--dev", "/dev"]
    for path in (EXCHANGE, ROOT):
        if path.is_relative_to("/usr") and path.exists():
            command += ["--tmpfs", str(path)]
    for name in ("bin", "sbin", "lib", "lib64", "lib32"):
        path = Path("/", name)
        if path.is_symlink():
            command += ["--symlink", os.readlink(path), str(path)]
        elif path.exists():
            command += ["--ro-bind", str(path), str(path)]
    # What can be written first: where /tmp holds the project itself, it must not lie over it.
    command += ["--bind", str(folder), "/box", "--bind", str(folder / "tmp"), "/tmp"]
    command += ["--bind", str(folder / "shm"), "/dev/shm", "--ro-bind", str(INSIDE), "/inside.py"]
    if extra:
        command += ["--ro-bind", str(extra), "/exercises"]
    seen = [Path("/etc", name) for name in ETC] + [ROOT / name for name in LEARNERS]
    for path in [*seen, Path(sys.prefix), Path(sys.base_prefix)]:
        if path.exists() and (path.is_relative_to(ROOT) or not path.is_relative_to("/usr")):
            command += ["--ro-bind", str(path), str(path)]
    # Who grades as root would otherwise lend that right to the inside: to write /proc/sys, and so to rule the kernel.
    for path in ("/proc", "/dev", "/"):
        command += ["--remount-ro", path]
    return [*command, "--chdir", "/box/work", "--"]


@functools.cache
def why_not() -> str:
    """Why there can be no sandbox here, as a sentence; "" where there can."""
    if shutil.which("bwrap") is None:
        return "There is no bubblewrap here: install it (Debian and Ubuntu: apt install bubblewrap; Linux only)."
    with box() as folder:
        tried = subprocess.run([*bubblewrap(folder), sys.executable, "-c", ""], capture_output=True, text=True)
    if tried.returncode:
        return f"bubblewrap cannot make a sandbox here ({tried.stderr.strip().splitlines()[-1:] or 'no reason given'})."
    return ""


def environment(inside: Path, seed: int, extra: Path | None) -> dict[str, str]:
    """All that a submission finds in its environment."""
    path = os.pathsep.join(map(str, [extra, ROOT] if extra else [ROOT]))
    home = str(inside / "work")
    return {
        "PATH": f"{sys.prefix}/bin:/usr/bin:/bin",
        "PYTHONPATH": path,
        "PYTHONDONTWRITEBYTECODE": "1",
        "HOME": home,
        "TMPDIR": str(inside / "tmp"),
        "LANG": "C.UTF-8",
        "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "1"),  # threads that wait for a busy core cost minutes
        "TOKENIZERS_PARALLELISM": "false",
        "HF_HUB_OFFLINE": "1",
        "HF_HOME": f"{home}/.huggingface",
        "JUPYTER_RUNTIME_DIR": str(inside / "tmp"),
        "IPYTHONDIR": f"{home}/.ipython",
        "MPLCONFIGDIR": f"{home}/.matplotlib",
        "PEFT_LESSONS_HOME": f"{home}/.peft_lessons",
        "PEFT_LESSONS_TELL": str(inside / "told"),
        "PEFT_LESSONS_SEED": str(seed),
    }


def run(
    folder: Path, cells: list[str], seed: int, limits: Limits, extra: Path | None = None, sandboxed: bool = True
) -> str:
    """Run the cells of one submission in a box; what came of it is in the box, all of it a stranger's.

    Args:
        folder: the box.
        cells: sources of code cells, in order.
        seed: of the data that this student gets.
        limits: what may be used.
        extra: a folder of Python modules to be seen inside.
        sandboxed: False runs it with the rights of whoever grades.

    Returns:
        "" where the run came to its end by itself, else why it was ended, as a clause.

    Raises:
        Refused: there can be no sandbox here.
    """
    if sandboxed and why_not():
        raise Refused(why_not())
    job = {"cells": cells, "crowded": CROWDED, "threads": THREADS * limits.processes} | asdict(limits)
    if not sandboxed:
        job["processes"] = job["threads"] = float("inf")  # of what runs here, most is not the submission's
    (folder / "job.json").write_text(json.dumps(job), encoding="utf-8")
    inside = Path("/box") if sandboxed else folder
    program = [sys.executable, "/inside.py" if sandboxed else str(INSIDE), str(inside)]
    command = [*bubblewrap(folder, extra), *program] if sandboxed else program
    process = subprocess.Popen(
        command,
        env=environment(inside, seed, Path("/exercises") if extra and sandboxed else extra),
        cwd=folder,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    family: list[psutil.Process] = []
    why, end = "", time.monotonic() + limits.seconds
    try:
        while process.poll() is None and not why:
            family = _family(process.pid)
            why = _too_much(folder, family, limits)
            if time.monotonic() > end:
                why = f"it took more than {limits.seconds:g} seconds"
            with suppress(subprocess.TimeoutExpired):
                process.wait(INTERVAL)
    finally:
        _end(process, family)
    return why or (_crowd(limits) if process.returncode == CROWDED else "")


def _family(pid: int) -> list[psutil.Process]:
    """A process and all that come from it."""
    try:
        parent = psutil.Process(pid)
        return [parent, *parent.children(recursive=True)]
    except psutil.NoSuchProcess:
        return []


def _end(process: "subprocess.Popen[bytes]", family: list[psutil.Process]) -> None:
    """End a run and everything in it: with its first process a sandbox's namespace is gone, and all in it."""
    family = family + _family(process.pid)
    process.kill()
    for member in family:
        with suppress(psutil.NoSuchProcess):
            member.kill()
    process.wait()
    psutil.wait_procs(family, timeout=10)


def _crowd(limits: Limits) -> str:
    return f"it started more than {limits.processes} processes or {THREADS * limits.processes} threads"


def _too_much(folder: Path, family: list[psutil.Process], limits: Limits) -> str:
    """What is used more than allowed, as a clause; "" where nothing is."""
    if len(family) > limits.processes or sum(map(_threads, family)) > THREADS * limits.processes:
        return _crowd(limits)
    most = limits.memory_mb * 2**20
    if sum(_memory(p, "rss") for p in family) > most and sum(_memory(p, "pss") for p in family) > most:
        return f"it used more than {limits.memory_mb:g} MB of memory"
    if psutil.virtual_memory().available < LEFT_TO_THE_MACHINE:
        return NO_MEMORY
    if _disk(folder) > limits.disk_mb * 2**20:
        return f"it wrote more than {limits.disk_mb:g} MB or {MOST_FILES} files"
    return ""


def _threads(process: psutil.Process) -> int:
    try:
        return process.num_threads()
    except psutil.Error:
        return 0


def _memory(process: psutil.Process, kind: str) -> int:
    """A process's memory; "pss" takes time, and counts what several share once."""
    try:
        return int(getattr(process.memory_full_info() if kind == "pss" else process.memory_info(), kind))
    except psutil.NoSuchProcess:
        return 0
    except (psutil.AccessDenied, AttributeError):
        return int(process.memory_info().rss)


def _disk(folder: Path) -> float:
    """Bytes on disk below a folder; endless where there are too many files to count or one cannot be looked at."""
    total, count, folders = 0, 0, [str(folder)]
    while folders:
        try:
            with os.scandir(folders.pop()) as entries:
                for entry in entries:
                    count += 1
                    if count > MOST_FILES:
                        return float("inf")
                    total += entry.stat(follow_symlinks=False).st_blocks * 512
                    if entry.is_dir(follow_symlinks=False):
                        folders.append(entry.path)
        except FileNotFoundError:
            continue  # gone since it was listed
        except OSError:
            return float("inf")
    return total
