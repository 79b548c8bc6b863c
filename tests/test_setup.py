"""The set-up script: a second call does nothing, and each way to fail says one sentence and breaks nothing.

The slow parts are played: PATH holds only the few commands the script needs, and a stand-in for Python that makes a
`.venv` of itself and counts its pip installs. One test uses the real Python and an index that does not answer.
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

FILES = ("tools/setup.sh", "requirements.txt", "requirements.lock", "pyproject.toml")
COMMANDS = ("sh", "awk", "cat", "cksum", "dirname", "grep", "mkdir", "cp", "chmod", "rm", "tee", "uname", "df")
FAKE_PYTHON = """#!/bin/sh
case "$1 $2" in
    "-c "*) [ "$FAKE_PYTHON" != old ] ;;
    "-m venv") mkdir -p .venv/bin && cp "$0" .venv/bin/python ;;
    "-m pip") [ "$3" = --version ] && exit 0
        echo "pip $*" >>pip_calls; [ -z "$PIP_SAYS" ] && exit 0
        echo "$PIP_SAYS"; exit 1 ;;
esac
"""

pytestmark = pytest.mark.skipif(os.name == "nt", reason="the set-up script is for Linux and macOS")


@pytest.fixture
def checkout(root: Path, tmp_path: Path) -> Path:
    """A folder with what the set-up reads, and a `bin` with the commands it may use."""
    for name in FILES:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        shutil.copy(root / name, tmp_path / name)
    (tmp_path / "bin").mkdir()
    for command in COMMANDS:
        (tmp_path / "bin" / command).symlink_to(shutil.which(command) or pytest.skip(f"no {command} here"))
    program(tmp_path, "python3", FAKE_PYTHON)
    return tmp_path


def program(checkout: Path, name: str, script: str) -> None:
    """Put a command of one's own into the PATH of the set-up."""
    path = checkout / "bin" / name
    path.unlink(missing_ok=True)
    path.write_text(script)
    path.chmod(0o755)


def run_setup(checkout: Path, **env: str) -> subprocess.CompletedProcess[str]:
    """Run the script as make does, with nothing of this machine in its environment but what is given."""
    env = {"PATH": str(checkout / "bin"), "HOME": str(checkout), "LC_ALL": "C"} | env
    return subprocess.run(["sh", "tools/setup.sh"], cwd=checkout, env=env, capture_output=True, text=True, timeout=120)


def installs(checkout: Path) -> int:
    """How often pip has been asked to install."""
    calls = checkout / "pip_calls"
    return len(calls.read_text().splitlines()) if calls.exists() else 0


def assert_one_sentence(result: subprocess.CompletedProcess[str], words: str) -> None:
    """One line on stderr, which is a sentence and has these words; and a status that stops make."""
    assert result.returncode != 0
    assert result.stderr.count("\n") == 1 and result.stderr.endswith(".\n"), result.stderr
    assert words in result.stderr


def test_a_second_call_does_nothing_until_the_lock_changes(checkout: Path) -> None:
    assert run_setup(checkout).returncode == 0 and installs(checkout) == 1
    second = run_setup(checkout)
    assert second.returncode == 0 and installs(checkout) == 1 and second.stdout == ""
    with (checkout / "requirements.lock").open("a") as lock:
        lock.write("one-more==1.0\n")
    assert run_setup(checkout).returncode == 0 and installs(checkout) == 2


def test_a_moved_checkout_is_set_up_again(checkout: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    assert run_setup(checkout).returncode == 0
    moved = tmp_path_factory.mktemp("moved") / "checkout"
    shutil.copytree(checkout, moved, symlinks=True)
    assert run_setup(moved).returncode == 0 and installs(moved) == 2


def test_no_python_at_all(checkout: Path) -> None:
    (checkout / "bin" / "python3").unlink()
    assert_one_sentence(run_setup(checkout), "needs Python 3.11, 3.12 or 3.13")
    assert not (checkout / ".venv").exists()


def test_only_an_old_python(checkout: Path) -> None:
    assert_one_sentence(run_setup(checkout, FAKE_PYTHON="old"), "needs Python 3.11, 3.12 or 3.13")
    assert not (checkout / ".venv").exists()


def test_a_python_of_ones_own_choice(checkout: Path) -> None:
    (checkout / "bin" / "python3").rename(checkout / "my-python")
    assert run_setup(checkout, PYTHON=str(checkout / "my-python")).returncode == 0


def test_a_python_without_venv(checkout: Path) -> None:
    program(checkout, "python3", FAKE_PYTHON.replace('"-c "*)', '"-c import ensurepip"*) exit 1 ;;\n    "-c "*)'))
    assert_one_sentence(run_setup(checkout), "apt install python3-venv")


def test_no_disk_space(checkout: Path) -> None:
    program(
        checkout,
        "df",
        "#!/bin/sh\necho Filesystem 1024-blocks Used Available Capacity Mounted\necho x 9 9 900000 9 x\n",
    )
    assert_one_sentence(run_setup(checkout), "GB of free disk space")
    assert not (checkout / ".venv").exists()


def test_the_disk_fills_up_and_the_next_call_starts_over(checkout: Path) -> None:
    assert_one_sentence(run_setup(checkout, PIP_SAYS="ERROR: [Errno 28] No space left on device"), "disk filled up")
    assert run_setup(checkout).returncode == 0 and installs(checkout) == 2


def test_an_update_that_breaks_off_is_done_again(checkout: Path) -> None:
    assert run_setup(checkout).returncode == 0
    with (checkout / "requirements.lock").open("a") as lock:
        lock.write("one-more==1.0\n")
    assert_one_sentence(run_setup(checkout, PIP_SAYS="ConnectionResetError: connection reset by peer"), "network")
    assert run_setup(checkout).returncode == 0 and installs(checkout) == 3


def test_a_machine_without_a_build_of_torch(checkout: Path) -> None:
    says = "ERROR: No matching distribution found for torch==2.13.0"
    assert_one_sentence(run_setup(checkout, PIP_SAYS=says), "no build for this machine")


def test_any_other_failure_names_the_log(checkout: Path) -> None:
    assert_one_sentence(run_setup(checkout, PIP_SAYS="something odd"), ".venv/install.log")
    assert "something odd" in (checkout / ".venv" / "install.log").read_text()


@pytest.mark.parametrize("gpu", [False, True])
def test_the_cpu_build_is_asked_for_only_without_a_gpu(checkout: Path, gpu: bool) -> None:
    program(checkout, "uname", "#!/bin/sh\necho Linux\n")
    program(checkout, "df", "#!/bin/sh\necho\necho x 9 9 90000000 9 x\n")
    if gpu:
        program(checkout, "nvidia-smi", "#!/bin/sh\necho GPU 0\n")
    elif Path("/proc/driver/nvidia/version").exists():
        pytest.skip("this machine has an NVIDIA GPU")
    assert run_setup(checkout).returncode == 0
    assert ("--extra-index-url" in (checkout / "pip_calls").read_text()) is not gpu


def test_no_network(checkout: Path) -> None:
    (checkout / "bin" / "python3").unlink()
    offline = {"PIP_CONFIG_FILE": os.devnull, "PIP_INDEX_URL": "http://127.0.0.1:9/simple", "PIP_RETRIES": "0"}
    result = run_setup(checkout, PYTHON=sys.executable, PYTHONPATH=os.environ["PYTHONPATH"], **offline)
    assert_one_sentence(result, "the first installation needs a network")
    assert not (checkout / ".venv" / "ready").exists()
