"""Shapes and their tables: the models' own parameter counts, tables that a new trace confirms, and files kept."""

import json
from dataclasses import replace

import pytest
from make_tables import common_setups

from peft_lessons.accounting import library
from peft_lessons.accounting.advice import (
    CARDS,
    GB,
    fits,
    largest_batch,
    longest,
    overhead,
    silent_switches,
    suggestions,
)
from peft_lessons.accounting.library import (
    TABLES,
    load_shape,
    load_table,
    read_tables,
    setup_key,
    shape_names,
    table_at_hand,
    write_tables,
)
from peft_lessons.accounting.setups import Setup, build_on_meta, kind_of, trace_setup
from peft_lessons.methods import FullFineTuning, Head, LoRA

# What the models' own pages and papers say they have; BERT without its pooler, which has 590,592.
PARAMETERS = {
    "bert-base": 109_482_240 - 590_592,
    "gemma-2b": 2_506_172_416,
    "gpt2": 124_439_808,
    "llama-2-7b": 6_738_415_616,
    "llama-3.1-70b": 70_553_706_496,
    "llama-3.1-8b": 8_030_261_248,
    "llama-3.2-1b": 1_235_814_400,
    "mistral-7b-v0.3": 7_248_023_552,
    "qwen2.5-0.5b": 494_032_768,
    "qwen2.5-7b": 7_615_616_512,
    "t5-base": 222_903_552,
}


@pytest.mark.parametrize("name", PARAMETERS)
def test_a_shape_has_the_models_own_parameter_count(name):
    config = load_shape(name)
    model = build_on_meta(config, Setup(FullFineTuning()))
    head = sum(p.numel() for n, p in model.named_parameters() if n.startswith("classifier"))
    assert sum(p.numel() for p in model.parameters()) - head == PARAMETERS[name]


def test_every_shape_has_its_tables():
    assert shape_names() == sorted(PARAMETERS) == sorted(path.stem for path in TABLES.glob("*.npz"))
    for name in shape_names():
        wanted = {setup_key(s) for s in common_setups(kind_of(load_shape(name)))}
        assert set(read_tables((TABLES / f"{name}.npz").read_bytes())) == wanted


@pytest.mark.parametrize("name", sorted(PARAMETERS))
def test_a_shipped_table_says_what_a_new_trace_says(name):
    config = load_shape(name)
    setups = list(common_setups(kind_of(config)))
    setup = setups[sum(map(ord, name)) % len(setups)]  # another one for each model
    method = replace(setup.method, r=5) if hasattr(setup.method, "r") else setup.method
    layers = 5 if table_at_hand(name, setup).n_layers is None else config.num_hidden_layers
    direct = trace_setup(config, replace(setup, method=method), 3, 104, layers)
    assert load_table(name, setup).evaluate(layers, 3, 104, 5).at_peak == direct.at_peak()


def test_what_is_not_shipped_is_built_once_and_kept(tmp_path, monkeypatch):
    monkeypatch.setenv("PEFT_LESSONS_HOME", str(tmp_path))
    monkeypatch.setattr(library, "_at_hand", {})
    setup = Setup(Head(), attention="eager")
    assert table_at_hand("gpt2", setup) is None
    told = []
    table = load_table("gpt2", setup, lambda done, total: told.append(done))
    assert told and len(list(tmp_path.rglob("*.npz"))) == 1
    monkeypatch.setattr(library, "_at_hand", {})
    monkeypatch.setattr(library, "build_table", lambda *_: pytest.fail("it was kept"))
    assert load_table("gpt2", setup).peak(12, 2, 64) == table.peak(12, 2, 64)


def test_a_broken_file_is_built_anew(tmp_path, monkeypatch):
    monkeypatch.setenv("PEFT_LESSONS_HOME", str(tmp_path))
    monkeypatch.setattr(library, "_at_hand", {})
    setup = Setup(Head(), attention="eager")
    before = load_table("gpt2", setup).peak(12, 2, 64)
    (kept,) = tmp_path.rglob("*.npz")
    kept.write_bytes(b"not a table")
    monkeypatch.setattr(library, "_at_hand", {})
    assert table_at_hand("gpt2", setup) is None
    assert load_table("gpt2", setup).peak(12, 2, 64) == before
    with pytest.raises(ValueError, match="no file of tables"):
        read_tables(b"not a table")


def test_a_home_that_cannot_be_written_costs_nothing_but_time(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("PEFT_LESSONS_HOME", str(tmp_path / "file"))
    monkeypatch.setattr(library, "_at_hand", {})
    assert load_table("gpt2", Setup(Head(), attention="eager")).peak(12, 1, 8) > 0


def test_tables_survive_being_written():
    table = load_table("gpt2", Setup())
    (again,) = read_tables(write_tables({"it": table})).values()
    assert again.evaluate(12, 2, 100, 4) == table.evaluate(12, 2, 100, 4)
    assert again.trained == table.trained and again.places == table.places


def test_a_table_does_not_depend_on_optimizer_rank_and_alpha():
    keys = {setup_key(Setup(LoRA(r=r, alpha=a), optimizer=o)) for r, a, o in ((1, 2, "sgd"), (9, 1, "adamw"))}
    assert len(keys) == 1
    assert setup_key(Setup(LoRA(dropout=0.1))) == setup_key(Setup(LoRA(dropout=0.5))) not in keys


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("{", "is no JSON file"),
        ("[]", "one JSON object"),
        ('{"model_type": "nonsense"}', "transformers does not know"),
        ('{"hidden_size": 4}', "transformers does not know"),
    ],
)
def test_a_configuration_that_does_not_parse_is_one_sentence(tmp_path, content, said):
    path = tmp_path / "config.json"
    path.write_text(content)
    with pytest.raises(ValueError, match=said):
        load_shape(path)


def test_other_ways_to_name_a_shape(tmp_path):
    content = json.loads((library.SHAPES / "gpt2.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(content))
    shapes = [load_shape("gpt2"), load_shape(tmp_path), load_shape(content), load_shape(load_shape("gpt2"))]
    assert len({s.to_json_string() for s in shapes}) == 1
    with pytest.raises(FileNotFoundError, match="llama-2-7b"):
        load_shape("llama-9")


@pytest.mark.parametrize("model_type", ["vit", "resnet", "mamba"])
def test_a_model_that_is_no_text_model_with_attention_is_refused(model_type):
    with pytest.raises(ValueError, match="no text model"):
        kind_of(load_shape({"model_type": model_type}))


def test_what_fits():
    more = overhead()
    assert fits(0) == dict.fromkeys(CARDS, "yes")
    assert fits(16 * GB)[16] == "no" and fits(16 * GB)[24] == "yes"
    assert fits(16 * GB - more.low)[16] == "perhaps"
    assert fits(16 * GB - more.high)[16] == "yes"


def test_the_longest_and_the_largest_that_fit_are_just_that():
    table, room = load_table("llama-3.1-8b", Setup()), 24 * GB - overhead().high
    length = longest(table, 32, 1, 8, "adamw", 24)
    assert table.peak(32, 1, length, 8) <= room < table.peak(32, 1, length + 8, 8)
    batch = largest_batch(table, 32, 256, 8, "adamw", 24)
    assert table.peak(32, batch, 256, 8) <= room < table.peak(32, batch + 1, 256, 8)
    assert longest(table, 32, 1, 8, "adamw", 8) == 0 == largest_batch(table, 32, 256, 8, "adamw", 8)
    assert longest(table, 32, 1, 8, "adamw", 141, limit=512) == 512


def test_suggestions_save_what_they_say():
    setup = Setup(FullFineTuning(), optimizer="adamw_foreach")
    now = load_table("llama-3.2-1b", setup).peak(16, 2, 64, 1, "adamw_foreach")
    found = suggestions("llama-3.2-1b", setup, 16, 2, 64, 1)
    assert found and [s.peak for s in found] == sorted(s.peak for s in found) and found[-1].peak < now
    fused = next(s for s in found if "fused" in s.change)
    assert fused.peak == load_table("llama-3.2-1b", setup).peak(16, 2, 64, 1, "adamw_fused")
    assert any("LoRA" in s.change for s in found) and any("batch to 1" in s.change for s in found)


@pytest.mark.parametrize(
    ("name", "setup", "said"),
    [
        ("llama-3.1-8b", Setup(weights="float32"), "falls back to math"),
        ("llama-2-7b", Setup(weights="float32"), "falls back to efficient"),
        ("llama-3.1-8b", Setup(padding=True), "because of a mask it falls back to efficient"),
        ("llama-3.1-8b", Setup(attention="efficient"), "grouped queries it falls back to math"),
        ("llama-3.1-8b", Setup(), "peft's default"),
        ("gpt2", Setup(FullFineTuning(), optimizer="adamw_foreach"), "foreach"),
        ("gpt2", Setup(keep_output=True), "last step's logits"),
        ("gpt2", Setup(weights="nf4", upcast=True), "k-bit preparation"),
        ("gpt2", Setup(Head()), "tied to the embeddings"),
        ("llama-3.1-8b", Setup(weights="nf4", upcast=True), "because of float32 and grouped queries"),
    ],
)
def test_what_happens_unasked_is_said(name, setup, said):
    assert any(said in sentence for sentence in silent_switches(name, setup))


def test_nothing_is_said_where_nothing_happens():
    assert silent_switches("llama-2-7b", Setup(FullFineTuning(), optimizer="adamw_fused")) == []
    assert silent_switches("llama-3.1-8b", Setup(weights="float32", autocast=True)) == []  # attention runs in bfloat16
    upcast = silent_switches("llama-2-7b", Setup(weights="nf4", upcast=True))
    assert not any("keeps a float32 copy" in sentence for sentence in upcast)  # all activations are float32 already
