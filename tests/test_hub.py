"""`load_base` with any Hub id, against a server on loopback that speaks the Hub's protocol.

huggingface_hub reads its address and its cache's place when it is imported, so every situation is a process of its
own; each runs as many steps as it can, for starting one takes seconds.
"""

import json
import os
import shutil
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from hub_server import HubServer
from models import bert, llama
from safetensors.torch import load_file

STEPS = """
import contextlib, io, json, sys, urllib.request
from peft_lessons import load_base

results = []
for step in json.loads(sys.argv[1]):
    if step.startswith("http"):
        urllib.request.urlopen(step).read()
        continue
    said, result = io.StringIO(), {}
    try:
        with contextlib.redirect_stdout(said):
            model, tokenizer = load_base(step, device="cpu")
        result["kind"] = type(model).__name__
        result["sum"] = model.get_input_embeddings().weight.double().sum().item()
        result["source"] = model.source
        result["frozen"] = not any(p.requires_grad for p in model.parameters()) and not model.training
        result["tokens"] = len(tokenizer("good meal")["input_ids"])
    except Exception as error:
        result = {"error": type(error).__name__, "message": str(error)}
    results.append(result | {"said": said.getvalue()})
print(json.dumps(results))
"""


def run_steps(steps: list[str], home: Path, endpoint: str, **env: str) -> list[dict[str, Any]]:
    """Load each name in one fresh process (an address among them is only fetched); what came of each."""
    env = os.environ | {"HF_ENDPOINT": endpoint, "HF_HOME": str(home), "HF_HUB_OFFLINE": "0"} | env
    done = subprocess.run(
        [sys.executable, "-c", STEPS, json.dumps(steps)], env=env, capture_output=True, text=True, timeout=240
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Hub's worth of models: two good ones, and every way to be none."""
    folder = tmp_path_factory.mktemp("hub")
    for name, model in {"tiny-random-llama": llama(), "tiny-random-bert": bert()}.items():
        place = folder / "someone" / name
        getattr(model, "encoder", model).save_pretrained(place)
        model.tokenizer.save_pretrained(place)
    good = folder / "someone" / "tiny-random-llama"
    for name in ("broken", "torn"):
        shutil.copytree(good, good.with_name(name))
    for name in ("no-weights", "only-pickle"):
        shutil.copytree(good, good.with_name(name), ignore=shutil.ignore_patterns("*.safetensors"))
    torch.save({"weight": torch.zeros(2)}, good.with_name("only-pickle") / "pytorch_model.bin")
    shutil.copytree(good, good.with_name("no-config"), ignore=shutil.ignore_patterns("config.json"))
    return folder


@pytest.fixture(scope="module")
def first(models: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Any]]:
    """Everything that happens while the Hub answers, in one process; its cache is left for the others."""
    home = tmp_path_factory.mktemp("home")
    with HubServer(models) as server:
        server.broken.add("someone/broken/model.safetensors")
        server.missing.add("someone/torn/model.safetensors")
        steps = [
            "someone/" + n for n in ("tiny-random-llama", "tiny-random-bert", "nobody", "no-weights", "only-pickle")
        ]
        steps += ["someone/no-config", "someone/broken", "someone/torn", server.url + "/mend", "someone/broken"]
        steps += ["someone/tiny-random-llama", "not a name"]
        results = run_steps(steps, home, server.url)
        names = [step for step in steps if not step.startswith("http")]
        names[names.index("someone/broken", 7)] = "someone/broken, again"
        names[names.index("someone/tiny-random-llama", 7)] = "someone/tiny-random-llama, again"
        yield dict(zip(names, results, strict=True)) | {"log": server.log, "home": home, "url": server.url}


def weights_sum(folder: Path, name: str) -> float:
    """The sum that shows which weights were loaded."""
    return load_file(folder / "model.safetensors")[name].double().sum().item()


def assert_one_sentence(result: dict[str, Any], error: str, *words: str) -> None:
    """The error of the right type, on one line, with these words."""
    assert result.get("error") == error, result
    assert "\n" not in result["message"] and len(result["message"]) < 300
    for word in words:
        assert word in result["message"], result["message"]


@pytest.mark.parametrize(
    ("name", "kind", "embeddings"),
    [
        ("tiny-random-llama", "LlamaForCausalLM", "model.embed_tokens.weight"),
        ("tiny-random-bert", "TextClassifier", "embeddings.word_embeddings.weight"),
    ],
)
def test_decoder_and_encoder(first: dict[str, Any], models: Path, name: str, kind: str, embeddings: str) -> None:
    result = first[f"someone/{name}"]
    assert result["kind"] == kind and result["frozen"] and result["tokens"] >= 2
    assert result["sum"] == pytest.approx(weights_sum(models / "someone" / name, embeddings), abs=1e-6)
    assert f"someone/{name}" in result["source"]


def test_it_says_what_it_downloads_and_how_big(first: dict[str, Any], models: Path) -> None:
    said = first["someone/tiny-random-llama"]["said"]
    folder = models / "someone" / "tiny-random-llama"
    total = sum(path.stat().st_size for path in folder.iterdir() if path.suffix in (".json", ".safetensors"))
    assert f"{total / 1000:.1f} kB" in said and first["url"] in said
    for path in folder.iterdir():
        assert (path.name in said) is (path.suffix in (".json", ".safetensors"))


def test_a_second_call_downloads_nothing(first: dict[str, Any]) -> None:
    assert first["someone/tiny-random-llama, again"]["said"] == ""
    fetched = [
        line for line in first["log"] if line[0] == "GET" and "tiny-random-llama" in line[1] and "/cdn" in line[1]
    ]
    assert len(fetched) == 1


def test_no_such_model(first: dict[str, Any]) -> None:
    assert_one_sentence(first["someone/nobody"], "FileNotFoundError", "someone/nobody", "minilm", "tiny")
    assert_one_sentence(first["not a name"], "FileNotFoundError", "not a name", "minilm", "tiny")


def test_weights_are_safetensors_or_nothing(first: dict[str, Any]) -> None:
    assert_one_sentence(first["someone/no-weights"], "FileNotFoundError", "no .safetensors weights")
    assert_one_sentence(first["someone/only-pickle"], "FileNotFoundError", "pickle files are never loaded")
    assert not [line for line in first["log"] if line[1].endswith(".bin")]


def test_no_configuration(first: dict[str, Any]) -> None:
    assert_one_sentence(first["someone/no-config"], "FileNotFoundError", "config.json")


def test_a_file_that_is_listed_but_gone(first: dict[str, Any]) -> None:
    assert_one_sentence(first["someone/torn"], "FileNotFoundError", "someone/torn", "model.safetensors")


def test_a_broken_transfer_and_then_a_good_one(first: dict[str, Any], models: Path) -> None:
    assert_one_sentence(first["someone/broken"], "ConnectionError", "someone/broken", "Call again")
    again = first["someone/broken, again"]
    assert again.get("kind") == "LlamaForCausalLM", again
    right = weights_sum(models / "someone" / "broken", "model.embed_tokens.weight")
    assert again["sum"] == pytest.approx(right, abs=1e-6)


def test_the_server_speaks_ranges(models: Path) -> None:
    content = (models / "someone" / "broken" / "config.json").read_bytes()
    with HubServer(models) as server:
        request = urllib.request.Request(f"{server.url}/someone/broken/resolve/main/config.json")
        request.add_header("Range", "bytes=10-")
        with urllib.request.urlopen(request) as answer:
            assert answer.status == 206 and answer.read() == content[10:]
            assert answer.headers["Content-Range"] == f"bytes 10-{len(content) - 1}/{len(content)}"


@pytest.fixture(scope="module")
def later(first: dict[str, Any]) -> list[dict[str, Any]]:
    """The same cache, when nothing answers at the Hub's address any more."""
    return run_steps(["someone/tiny-random-llama", "someone/torn", "someone/else"], first["home"], "http://127.0.0.1:9")


def test_without_a_network_a_cached_copy_is_used(first: dict[str, Any], later: list[dict[str, Any]]) -> None:
    assert later[0].get("sum") == first["someone/tiny-random-llama"]["sum"], later[0]


def test_without_a_network_half_a_copy_is_none(later: list[dict[str, Any]]) -> None:
    assert_one_sentence(later[1], "FileNotFoundError", "someone/torn", "minilm")


def test_without_a_network_and_without_a_copy(later: list[dict[str, Any]]) -> None:
    assert_one_sentence(later[2], "FileNotFoundError", "someone/else", "minilm", "no complete copy")


def test_offline_by_the_hubs_own_switch(first: dict[str, Any]) -> None:
    found = run_steps(["someone/tiny-random-bert", "someone/else"], first["home"], first["url"], HF_HUB_OFFLINE="1")
    assert found[0].get("sum") == first["someone/tiny-random-bert"]["sum"], found[0]
    assert_one_sentence(found[1], "FileNotFoundError", "someone/else")
