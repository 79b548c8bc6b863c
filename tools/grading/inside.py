"""Run a notebook's code cells, one after the other, where nothing else is to be seen: the only part inside a sandbox.

    python inside.py BOX     BOX/job.json says what to run and how much it may use; BOX/run/N.json is what cell N gave

Nothing that this process writes is believed by whoever reads it: the student's code runs as the same user and can
write the same files. It imports nothing of the course.
"""

import json
import os
import resource
import subprocess
import sys
import time
from pathlib import Path
from queue import Empty
from typing import Any

import zmq
from jupyter_client.blocking import BlockingKernelClient
from jupyter_client.manager import KernelManager

GRACE = 10.0  # seconds between asking a cell to stop and ending its kernel
MOST_MESSAGES = 1000


def limit(job: dict[str, Any]) -> None:
    """Bound this process and all that it starts, for good.

    RLIMIT_DATA and not RLIMIT_AS: torch reserves many times the address space that it writes to.
    """
    limits = {
        resource.RLIMIT_DATA: int(job["memory_mb"] * 2**20),
        resource.RLIMIT_FSIZE: int(job["disk_mb"] * 2**20),
        resource.RLIMIT_NOFILE: 512,
        resource.RLIMIT_CORE: 0,
    }
    for which, most in limits.items():
        hard = resource.getrlimit(which)[1]
        most = most if hard == resource.RLIM_INFINITY else min(most, hard)
        resource.setrlimit(which, (most, most))


def outputs_of(message: dict[str, Any]) -> dict[str, Any] | None:
    """A kernel's message as a cell's output, in nbformat's words; None where it is none."""
    kind, content = message["msg_type"], message["content"]
    if kind == "stream":
        return {"output_type": "stream", "name": content["name"], "text": content["text"]}
    if kind in ("display_data", "execute_result"):
        return {"output_type": kind, "data": content["data"]}
    if kind == "error":
        return {"output_type": "error"} | {key: content[key] for key in ("ename", "evalue", "traceback")}
    return None


def leave_if_crowded(job: dict[str, Any]) -> None:
    """End all of it where too many processes or threads run: enough of them keep the watch outside from its turn."""
    processes = [name for name in os.listdir("/proc") if name.isdecimal()]
    if len(processes) > job["processes"] or sum(map(threads, processes)) > job["threads"]:
        os._exit(job["crowded"])


def threads(process: str) -> int:
    """How many threads a process has: the folders of its own in /proc, of which two are . and .. ."""
    try:
        return os.stat(f"/proc/{process}/task").st_nlink - 2
    except OSError:
        return 0


def run_cell(
    manager: KernelManager, client: BlockingKernelClient, broken: zmq.Socket, source: str, job: dict[str, Any]
) -> tuple[list[dict[str, Any]], str]:
    """Run one cell; returns its outputs and how it ended: "ok", "error", or "time", "output" or "died".

    A cell that is over its time or has printed too much is interrupted; one that does not end then ends its kernel.
    `broken` tells of a connection that ended, because what came was larger than is ever taken.
    """
    most = int(job["output_mb"] * 2**20)
    outputs: list[dict[str, Any]] = []
    written, stopped, replied = 0, "", 0.0
    request = client.execute(source, allow_stdin=False, stop_on_error=False)
    end = time.monotonic() + job["cell_seconds"]
    while True:
        try:
            message = client.get_iopub_msg(timeout=0.2)
        except Empty:
            message = None
        leave_if_crowded(job)
        if message is None:
            if not manager.is_alive():
                return outputs, stopped or "died"
            replied = replied or _replied(client, request)
            if replied and time.monotonic() - replied > 1:  # and the messages before its reply are lost
                return outputs, stopped or "output"
        too_much = broken.poll(0) and broken.recv_multipart() and not stopped
        if message and message["parent_header"].get("msg_id") == request:
            if message["msg_type"] == "status" and message["content"]["execution_state"] == "idle":
                break
            output = outputs_of(message)
            if output and not stopped:
                if output["output_type"] == "stream":
                    output["text"] = output["text"][: max(most - written, 0)]
                size = len(json.dumps(message["content"]))
                if written + len(json.dumps(output)) <= 2 * most:
                    outputs.append(output)
                written += size
                too_much = too_much or written > most or len(outputs) >= MOST_MESSAGES
        if too_much:
            stopped, end = "output", time.monotonic() + GRACE
            manager.interrupt_kernel()
        if time.monotonic() > end:
            if stopped:
                manager.shutdown_kernel(now=True)
                return outputs, stopped
            stopped, end = "time", time.monotonic() + GRACE
            manager.interrupt_kernel()
    if stopped == "output":
        _settle(client, broken)
    return outputs, stopped or ("error" if any(o["output_type"] == "error" for o in outputs) else "ok")


def _settle(client: BlockingKernelClient, broken: zmq.Socket) -> None:
    """Let what a cell printed before it was stopped run out, so that the next cell is not taken for its author."""
    end = time.monotonic() + GRACE
    quiet = time.monotonic()
    while time.monotonic() < end and time.monotonic() - quiet < 1:
        try:
            client.get_iopub_msg(timeout=0.1)
            quiet = time.monotonic()
        except Empty:
            if broken.poll(0):
                broken.recv_multipart()
                quiet = time.monotonic()


def _replied(client: BlockingKernelClient, request: str) -> float:
    """The time, if the kernel has just said that it is done with a request; else 0."""
    try:
        return time.monotonic() * (client.get_shell_msg(timeout=0)["parent_header"].get("msg_id") == request)
    except Empty:
        return 0.0


def main(box: Path) -> None:
    """Run the job in a box."""
    job = json.loads((box / "job.json").read_text(encoding="utf-8"))
    limit(job)
    most = int(job["output_mb"] * 2**20)
    manager = KernelManager(kernel_name="python3", transport="ipc", ip=str(box / "tmp" / "kernel"))
    manager.start_kernel(cwd=str(box / "work"), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    client = manager.blocking_client()
    client.context.setsockopt(zmq.MAXMSGSIZE, max(4 * most, 2**24))
    client.start_channels(stdin=False, hb=False)
    client.wait_for_ready(timeout=60)
    broken = client.iopub_channel.socket.get_monitor_socket(zmq.EVENT_DISCONNECTED)
    for number, source in enumerate(job["cells"]):
        started = time.monotonic()
        outputs, ended = run_cell(manager, client, broken, source, job)
        result = {"outputs": outputs, "ended": ended, "seconds": time.monotonic() - started}
        (box / "run" / f"{number}.json").write_text(json.dumps(result), encoding="utf-8")
        if not manager.is_alive():
            break
    manager.shutdown_kernel(now=True)
    os._exit(0)  # without waiting for whatever the notebook left behind


if __name__ == "__main__":
    main(Path(sys.argv[1]))
