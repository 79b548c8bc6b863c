"""The sandbox's limits, each overstepped by a notebook that tries; and what comes back out of it is read safely."""

import base64
import json
import os
import time
from pathlib import Path

import pytest

pytest.importorskip("resource", reason="grading is for Linux")
from grading import results, sandbox  # noqa: E402
from grading.course import Limits, Refused  # noqa: E402

pytestmark = pytest.mark.skipif(
    bool(sandbox.why_not()) and not os.environ.get("CI"), reason=f"{sandbox.why_not()} `make sandbox` may install it"
)

SLOW = float(os.environ.get("GRADING_TEST_SLOW", 1))  # more on a busy machine
LIMITS = {"cell_seconds": 6 * SLOW, "seconds": 60 * SLOW, "memory_mb": 700, "disk_mb": 30, "processes": 30}
CROWD = "it started more than 30 processes or 480 threads"


def run(*cells: str, sandboxed: bool = True, **limits: float) -> tuple[str, list[results.CellRun]]:
    """Why a run was ended, and what its cells came to."""
    chosen = Limits(**LIMITS | limits)  # type: ignore[arg-type]
    with sandbox.box() as box:
        why = sandbox.run(box, list(cells), 7, chosen, sandboxed=sandboxed)
        return why, [results.cell_run(box, number, chosen) for number in range(len(cells))]


def said(run: results.CellRun) -> str:
    return "".join(o.text for o in run.outputs if o.output_type == "stream")


def test_an_endless_cell_is_stopped_and_the_next_one_runs() -> None:
    why, runs = run("while True: pass", "print('after')", cell_seconds=3 * SLOW)
    assert why == "" and [r.ended for r in runs] == ["time", "ok"] and said(runs[1]) == "after\n"


def test_a_cell_that_will_not_be_stopped_ends_the_run() -> None:
    stubborn = "import time\nwhile True:\n    try: time.sleep(1)\n    except BaseException: pass"
    assert [r.ended for r in run("1", stubborn, "3", cell_seconds=3 * SLOW)[1]] == ["ok", "time", "not run"]


@pytest.mark.parametrize(
    "printing", ["for i in range(2**21): print('x' * 1023)", "for i in range(64): print('x' * 2**25)"]
)
def test_two_gigabytes_of_output_are_stopped(printing: str) -> None:
    _, runs = run(printing, cell_seconds=30 * SLOW, memory_mb=3000)
    assert runs[0].ended == "output" and len(said(runs[0])) <= 2**20


def test_memory_of_one_process_is_an_error_in_its_cell() -> None:
    why, runs = run("held = []\nwhile True: held.append(bytearray(2**24))", "del held", "print('after')")
    assert why == "" and runs[0].error.startswith("MemoryError") and said(runs[2]) == "after\n"


def test_memory_that_no_limit_of_a_process_counts_ends_the_run() -> None:
    shared = "import mmap\nheld = []\nwhile True:\n    m = mmap.mmap(-1, 2**24); m.write(b'1' * 2**24); held.append(m)"
    assert run(shared)[0] == "it used more than 700 MB of memory"


@pytest.mark.parametrize("bomb", ["while True: os.fork()", "while True:\n    if os.fork(): time.sleep(60)"])
def test_a_fork_bomb_ends_the_run(bomb: str) -> None:
    assert run(f"import os, time\n{bomb}")[0] == CROWD


def test_a_fork_bomb_ends_the_run_before_any_watch_looks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sandbox, "INTERVAL", 60)
    assert run("import os\nwhile True: os.fork()")[0] == CROWD


def test_a_flood_of_threads_ends_the_run() -> None:
    flood = "while True: threading.Thread(target=time.sleep, args=(60,)).start()"
    assert run(f"import threading, time\nthreading.stack_size(2**15)\n{flood}", cell_seconds=20 * SLOW)[0] == CROWD


@pytest.mark.parametrize(
    "writing",
    [
        "for i in range(1000): open(str(i), 'wb').write(b'1' * 2**20)",
        "for i in range(1000): open(f'/dev/shm/{i}', 'wb').write(b'1' * 2**20)",
        "for i in range(100_000): open(f'/tmp/{i}', 'wb')",
    ],
)
def test_a_full_disk_ends_the_run(writing: str) -> None:
    assert run(writing, cell_seconds=40 * SLOW)[0] == f"it wrote more than 30 MB or {sandbox.MOST_FILES} files"


def test_one_large_file_is_an_error_in_its_cell() -> None:
    why, runs = run("f = open('f', 'wb')\nwhile True: f.write(b'1' * 2**20)")
    assert runs[0].error.startswith("OSError: [Errno 27]") or "30 MB" in why


def test_the_whole_has_a_time_too() -> None:
    began = time.monotonic()
    why, runs = run(*["import time; time.sleep(2)"] * 30, seconds=8 * SLOW)
    assert why == f"it took more than {8 * SLOW:g} seconds" and runs[-1].ended == "not run"
    assert time.monotonic() - began < 30 * SLOW


@pytest.mark.parametrize("end", ["os._exit(3)", "os.kill(os.getppid(), 9)"])
def test_a_notebook_that_ends_what_runs_it_only_ends_itself(end: str) -> None:
    _, runs = run("1", f"import os; {end}", "3")
    assert [r.ended for r in runs] in (["ok", "died", "not run"], ["ok", "not run", "not run"])


def test_nothing_is_left_behind() -> None:
    import psutil

    before = {p.pid for p in psutil.Process().children(recursive=True)}
    with sandbox.box() as box:
        closed = "import os; os.makedirs('a/b'); os.chmod('a', 0); os.chmod('/box', 0)"
        sandbox.run(box, ["import subprocess; subprocess.Popen(['sleep', '1000'])", closed], 7, Limits(**LIMITS))
        results.cell_run(box, 0, Limits())
        kept = box
    after = [p for p in psutil.process_iter(["cmdline"]) if p.info["cmdline"] == ["sleep", "1000"]]
    assert not after and not kept.exists()
    assert {p.pid for p in psutil.Process().children(recursive=True)} <= before


def test_what_others_handed_in_is_hidden_also_below_usr(monkeypatch: pytest.MonkeyPatch) -> None:
    exchange = next(path for path in sorted(Path("/usr/share").iterdir()) if path.is_dir() and any(path.iterdir()))
    listed = f"import os; print(os.listdir({str(exchange)!r}))"
    assert said(run(listed)[1][0]) != "[]\n"
    monkeypatch.setattr(sandbox, "EXCHANGE", exchange)
    assert said(run(listed)[1][0]) == "[]\n"


def test_the_kernels_settings_cannot_be_written_not_even_as_root() -> None:
    runs = run("import os; os.open('/proc/sys/kernel/core_pattern', os.O_WRONLY)")[1]
    assert runs[0].error.startswith(("OSError: [Errno 30]", "PermissionError"))


def test_without_a_sandbox_limits_stay() -> None:
    why, runs = run("while True: pass", "print('after')", sandboxed=False, cell_seconds=3 * SLOW)
    assert [r.ended for r in runs] == ["time", "ok"]


def test_no_sandbox_no_grading_and_one_sentence(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(sandbox.shutil, "which", lambda name: None)
    sandbox.why_not.cache_clear()
    try:
        with pytest.raises(Refused, match=r"^There is no bubblewrap here: install it .*\.$"):
            sandbox.run(tmp_path, ["1"], 7, Limits())
    finally:
        monkeypatch.undo()
        sandbox.why_not.cache_clear()


# ---- what comes out is a stranger's ----


def test_a_file_is_read_through_no_link_and_up_to_its_size(tmp_path: Path) -> None:
    box, secret = tmp_path / "box", tmp_path / "secret"
    (box / "told").mkdir(parents=True)
    secret.mkdir()
    (secret / "file").write_bytes(b"secret")
    (box / "told" / "plain").write_bytes(b"1234")
    (box / "told" / "link").symlink_to(secret / "file")
    (box / "linked").symlink_to(secret)
    os.mkfifo(box / "told" / "pipe")
    assert results.read(box, "told", "plain", most=4) == b"1234"
    assert results.read(box, "told", "plain", most=3) is None
    for parts in (("told", "link"), ("linked", "file"), ("told", "pipe"), ("told",), ("told", "none")):
        assert results.read(box, *parts, most=100) is None


@pytest.mark.parametrize(
    "written",
    ["", "[" * 100_000, "[]", "3", '{"ended": "ok"}', '{"ended": [], "outputs": []}', '{"ended": "ok", "outputs": 3}'],
)
def test_a_cell_file_of_any_other_form_is_a_cell_that_was_not_run(tmp_path: Path, written: str) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "0.json").write_text(written)
    assert results.cell_run(tmp_path, 0, Limits()).ended == "not run"


def test_of_outputs_text_and_pictures_stay(tmp_path: Path) -> None:
    picture = base64.b64encode(results.PNG + b"rest").decode()
    outputs = [
        {"output_type": "display_data", "data": {"text/html": "<script>", "text/plain": "text", "image/png": picture}},
        {"output_type": "display_data", "data": {"image/png": '"><script>'}},
        {"output_type": "display_data", "data": {"image/svg+xml": "<svg onload=x>", "application/javascript": "x"}},
        {"output_type": "execute_result", "data": {"text/plain": ["no", "string"]}},
        {"output_type": "stream", "name": "<b>", "text": "out"},
        {"output_type": "stream", "name": "stdout", "text": {"no": "string"}},
        {"output_type": "error", "ename": "E", "evalue": "v", "traceback": ["line"]},
        {"output_type": "unknown"},
        "no output",
    ]
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "0.json").write_text(json.dumps({"ended": "ok", "outputs": outputs}))
    found = results.cell_run(tmp_path, 0, Limits()).outputs
    assert [dict(o.get("data", {})) for o in found] == [{"text/plain": "text", "image/png": picture}, {}, {}]
    assert [o.output_type for o in found] == ["display_data", "stream", "error"] and found[1].name == "stdout"
