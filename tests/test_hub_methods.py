"""Every method on models that come from the Hub, here a server on loopback that speaks its protocol."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from hub_server import HubServer
from models import bert, llama

from peft_lessons.methods import Method

SCRIPT = """
import json, sys
from models import logits, task
from peft_lessons import attach, detach, fit, load_base
from peft_lessons.methods import Method

found = {}
for name in sys.argv[1:]:
    model, _ = load_base(name, device="cpu")
    for method in Method.registry.values():
        said = f"{method.__name__} on {name}"
        try:
            attach(model, method())
        except ValueError as error:
            found[said] = str(error)
            continue
        losses = fit(model, task(), steps=2, batch_size=4, progress=False).losses
        found[said] = bool(logits(model).isfinite().all()) and all(0 < loss < 20 for loss in losses)
        detach(model)
print(json.dumps(found))
"""
NAMES = ("someone/llama", "someone/bert")


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bool | str]:
    folder = tmp_path_factory.mktemp("hub")
    for name, model in zip(NAMES, (llama(), bert()), strict=True):
        getattr(model, "encoder", model).save_pretrained(folder / name)
        model.tokenizer.save_pretrained(folder / name)
    with HubServer(folder) as server:
        env = os.environ | {"HF_ENDPOINT": server.url, "HF_HOME": str(folder / "home"), "HF_HUB_OFFLINE": "0"}
        env |= {"PYTHONPATH": str(Path(__file__).parent)}
        command = [sys.executable, "-c", SCRIPT, *NAMES]
        done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize("base", NAMES)
@pytest.mark.parametrize("method", [method.__name__ for method in Method.registry.values()])
def test_it_attaches_and_trains(found: dict[str, bool | str], method: str, base: str) -> None:
    outcome = found[f"{method} on {base}"]
    if (method, base) == ("BitFit", "someone/llama"):
        assert isinstance(outcome, str) and "This model has no biases" in outcome
    else:
        assert outcome is True, outcome
