"""Pretrain the shipped base from scratch, in six stages, on a corpus made as it goes.

    python data/base/recipe/pretrain.py --work FOLDER --seed 0        train, or go on where FOLDER left off
    python data/base/recipe/pretrain.py --work FOLDER --export OUT    write the finished model as a folder

S1  plain text and ordinary tasks with few labels, until the text loss flattens;
S2  plus word lists said twice and tasks without any delimiter, until the model repeats (induction) and looks up;
S3  plus sentences, every word as a label and made-up labels, until labels never seen before work;
S4  longer documents in random formats, at a constant learning rate;
S5  the same with more of what is still weak, the learning rate falling to zero;
S6  a second, shorter decay on sentences in which any word may decide the label.

Training on everything at once from the start never left the plateau of word frequencies: the order decides.
Matrices are trained by Muon, embeddings and gains by AdamW. A batch is a function of (seed, stage, step), so a run that
is stopped goes on as if it had not been.
"""

import argparse
import json
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from random import Random

import documents as docs
import torch
import torch.nn.functional as F
import world as w
from evaluate import CELLS, Cell, accuracy, category, has_bf16
from tokens import Encoder, build_tokenizer, save_tokenizer
from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM

MAX_LENGTH = 512  # positions the config declares; the longest trained sequence is that of the last stages
ANSWER_WEIGHT = 2.5  # weight of the mean loss on answers against that on the other tokens
TEXT_SAMPLE = 0.5  # share of the other tokens whose loss is computed, which saves time in the output layer


@dataclass(frozen=True)
class Stage:
    """One stage: what it reads, how long its rows are (tokens), its limits (tokens) and its gate."""

    name: str
    mix: docs.Mix
    length: int
    min_tokens: int
    max_tokens: int
    gate: Callable | None = None
    decay: bool = False
    peak: float = 1.0  # the learning rate it starts from, as a share of --lr


def text_loss_is_flat(run: "Run") -> tuple[bool, dict]:
    """S1: the text loss fell by less than 0.15 over the last 0.6 M tokens."""
    recent = [row["text_loss"] for row in run.history if row["stage"] == run.stage.name]
    span = round(0.6e6 / (20 * run.args.batch_tokens))
    if len(recent) < span + 10:
        return False, {}
    drop = sum(recent[-span - 10 : -span]) / 10 - sum(recent[-10:]) / 10
    return drop < 0.15, {"text_loss_drop": round(drop, 3)}


def repeats_and_looks_up(run: "Run") -> tuple[bool, dict]:
    """S2: 95 % of a repeated list right, and 85 % on two-way categories from eight bare examples."""
    repeat = run.repeat_accuracy()
    bare = run.score("bare categories", 8)
    return repeat > 95 and bare >= 85, {"repeat": repeat, "bare_categories_8": bare}


def new_labels_work(run: "Run") -> tuple[bool, dict]:
    """S3: 85 % at eight shots with held-out labels in a held-out domain."""
    new = run.score("new labels", 8)
    return new >= 85, {"new_labels_8": new}


def stages(s4_tokens: float, s5_tokens: float, s6_tokens: float) -> list[Stage]:
    return [
        Stage("S1", docs.S1, 128, int(1.6e6), int(3.0e6), text_loss_is_flat),
        Stage("S2", docs.S2, 128, int(0.6e6), int(3.0e6), repeats_and_looks_up),
        Stage("S3", docs.S3, 192, int(2.0e6), int(5.0e6), new_labels_work),
        Stage("S4", docs.S4, 320, int(s4_tokens), int(s4_tokens)),
        Stage("S5", docs.S5, 320, int(s5_tokens), int(s5_tokens), decay=True),
        Stage("S6", docs.S6, 320, int(s6_tokens), int(s6_tokens), decay=True, peak=0.5),
    ]


def new_model(tokenizer, layers: int, width: int, heads: int) -> LlamaForCausalLM:
    config = LlamaConfig(
        vocab_size=tokenizer.get_vocab_size(),
        hidden_size=width,
        intermediate_size=64 * round(width * 8 / 3 / 64),
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=heads,
        max_position_embeddings=MAX_LENGTH,
        rope_parameters={"rope_type": "default", "rope_theta": 10000.0},
        tie_word_embeddings=True,
        bos_token_id=0,
        eos_token_id=1,
        pad_token_id=2,
    )
    return LlamaForCausalLM(config)


GATE_CELLS = {
    "bare categories": Cell(
        category(w.CATEGORIES), lambda rng: rng.sample(docs.LABEL_ORDER[:250], 2), lambda rng: docs.BARE
    ),
    **CELLS,
}


class Run:
    """The state of one pretraining run: model, optimizers, position in the stages, history."""

    def __init__(self, args: argparse.Namespace):
        self.args, self.work = args, args.work
        self.work.mkdir(parents=True, exist_ok=True)
        torch.manual_seed(args.seed)
        self.tokenizer = build_tokenizer()
        self.encoder = Encoder(self.tokenizer)
        self.model = new_model(self.tokenizer, args.layers, args.width, args.heads)
        named = [(name, p) for name, p in self.model.named_parameters()]
        is_matrix = {name: p.ndim == 2 and "embed_tokens" not in name for name, p in named}
        self.optimizers = [
            torch.optim.Muon([p for n, p in named if is_matrix[n]], lr=args.lr, adjust_lr_fn="match_rms_adamw"),
            torch.optim.AdamW([p for n, p in named if not is_matrix[n]], args.lr, betas=(0.9, 0.98), weight_decay=0.0),
        ]
        self.stages = stages(args.s4_tokens, args.s5_tokens, args.s6_tokens)
        self.i_stage, self.step, self.stage_tokens = 0, 0, 0
        self.tokens, self.cpu_seconds = 0, 0.0
        self.history: list[dict] = []
        self.events: list[dict] = []
        self.bf16 = has_bf16()

    @property
    def stage(self) -> Stage:
        return self.stages[self.i_stage]

    # -------------------------------------------------------------- data

    def batch(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Ids and kinds, each (rows, length + 1): documents packed into rows, the last of a row cut off."""
        stage = self.stage
        rng = Random(f"{self.args.seed}-{stage.name}-{self.step}")
        width = stage.length + 1
        rows, row_kinds = [], []
        for _ in range(round(self.args.batch_tokens / stage.length)):
            ids: list[int] = []
            kinds: list[int] = []
            while len(ids) < width:
                more, more_kinds = self.encoder.segments(docs.document(rng, stage.mix, max(8, (width - len(ids)) // 8)))
                ids += more
                kinds += more_kinds
            rows.append(ids[:width])
            row_kinds.append(kinds[:width])
        return torch.tensor(rows), torch.tensor(row_kinds)

    # -------------------------------------------------------------- one step

    def learning_rate(self) -> float:
        warmup = min(1.0, (self.step + 1) / 40) if self.i_stage == 0 else 1.0
        decay = 1.0 - self.stage_tokens / self.stage.max_tokens if self.stage.decay else 1.0
        return self.args.lr * self.stage.peak * warmup * max(decay, 0.01)

    def train_step(self) -> dict:
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = self.learning_rate()
        ids, kinds = self.batch()
        inputs, targets, kinds = ids[:, :-1], ids[:, 1:].flatten(), kinds[:, 1:].flatten()
        generator = torch.Generator().manual_seed(self.step * 1000 + self.i_stage)
        sampled = torch.rand(len(kinds), generator=generator) < TEXT_SAMPLE
        text = ((kinds == docs.TEXT) & sampled).nonzero().squeeze(1)
        answers = (kinds == docs.ANSWER).nonzero().squeeze(1)
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=self.bf16):
            hidden = self.model.model(input_ids=inputs).last_hidden_state.flatten(0, 1)
            logits = self.model.lm_head(hidden[torch.cat([text, answers])])
        losses = F.cross_entropy(logits.float(), targets[torch.cat([text, answers])], reduction="none")
        text_loss, answer_loss = losses[: len(text)].mean(), losses[len(text) :].mean()
        loss = text_loss + (ANSWER_WEIGHT * answer_loss if len(answers) else 0.0)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        for optimizer in self.optimizers:
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        self.step += 1
        self.stage_tokens += inputs.numel()
        self.tokens += inputs.numel()
        return {"text_loss": float(text_loss.detach()), "answer_loss": float(answer_loss.detach())}

    # -------------------------------------------------------------- gates

    def score(self, cell: str, k: int, n: int = 200) -> float:
        encode = lambda text: self.tokenizer.encode(text).ids  # noqa: E731
        self.model.eval()
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=self.bf16):
            result, _ = accuracy(self.model, encode, self.encoder.bos, GATE_CELLS[cell], k, n, "gate")
        self.model.train()
        return result

    @torch.no_grad()
    def repeat_accuracy(self, n: int = 64) -> float:
        """Percent of the repeated words of repeat documents that the model puts first."""
        rng, right, total = Random("repeat"), 0, 0
        for _ in range(n):
            ids, kinds = self.encoder.segments(docs.repeat_document(rng, 20))
            ids, kinds = torch.tensor(ids[:128]), torch.tensor(kinds[:128])
            with torch.autocast("cpu", dtype=torch.bfloat16, enabled=self.bf16):
                guess = self.model(input_ids=ids[None]).logits[0, :-1].argmax(-1)
            mask = kinds[1:] == docs.ANSWER
            right += int((guess[mask] == ids[1:][mask]).sum())
            total += int(mask.sum())
        return round(100 * right / total, 1)

    # -------------------------------------------------------------- files

    def save(self, name: str = "last") -> None:
        state = {
            "model": self.model.state_dict(),
            "optimizers": [optimizer.state_dict() for optimizer in self.optimizers],
            "at": [self.i_stage, self.step, self.stage_tokens, self.tokens, self.cpu_seconds],
            "history": self.history,
            "events": self.events,
        }
        torch.save(state, self.work / "new.pt")
        (self.work / "new.pt").rename(self.work / f"{name}.pt")

    def load(self, path: Path) -> None:
        state = torch.load(path, weights_only=True)
        self.model.load_state_dict(state["model"])
        for optimizer, saved in zip(self.optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(saved)
        self.i_stage, self.step, self.stage_tokens, self.tokens, self.cpu_seconds = state["at"]
        self.history, self.events = state["history"], state["events"]

    def export(self, folder: Path) -> None:
        """Write the model as AutoModelForCausalLM and AutoTokenizer read it, in bfloat16, and the training log."""
        folder.mkdir(parents=True, exist_ok=True)
        ids = {"bos_token_id": self.encoder.bos, "eos_token_id": self.encoder.eos, "pad_token_id": self.encoder.pad}
        self.model.generation_config = GenerationConfig(**ids)
        self.model.to(torch.bfloat16).save_pretrained(folder)
        save_tokenizer(self.tokenizer, folder, MAX_LENGTH)
        log = {
            "seed": self.args.seed,
            "parameters": sum(p.numel() for p in self.model.parameters()),
            "tokens": self.tokens,
            "cpu_minutes": round(self.cpu_seconds / 60, 1),
            "bf16_autocast": self.bf16,
            "learning_rate": self.args.lr,
            "batch_tokens": self.args.batch_tokens,
            "stages": self.events,
            "mixes": {stage.name: asdict(stage.mix) | {"length": stage.length} for stage in self.stages},
        }
        (folder / "training.json").write_text(json.dumps(log, indent=1) + "\n")

    # -------------------------------------------------------------- the loop

    def train(self) -> None:
        saved = clock = time.process_time()
        recent: list[dict] = []
        while self.i_stage < len(self.stages):
            recent.append(self.train_step())
            if self.step % 20 == 0:
                now = time.process_time()
                self.cpu_seconds += now - clock
                clock = now
                row = {key: round(sum(r[key] for r in recent) / len(recent), 3) for key in recent[0]}
                row |= {"stage": self.stage.name, "step": self.step, "tokens": self.tokens}
                self.history.append(row)
                recent = []
                print(json.dumps(row | {"cpu": round(self.cpu_seconds)}), flush=True)
                if now - saved > 120:
                    self.save()
                    saved = now
            if self.step % 60 == 0:
                self.try_to_leave()
        self.save("done")

    def try_to_leave(self) -> None:
        """Go to the next stage if this one's gate is passed, or its limit reached."""
        stage = self.stage
        passed, metrics = False, {}
        if self.stage_tokens >= stage.min_tokens:
            passed, metrics = stage.gate(self) if stage.gate else (True, {})
            print(stage.name, metrics, flush=True)
        if passed or self.stage_tokens >= stage.max_tokens:
            self.events.append(
                {
                    "stage": stage.name,
                    "tokens": self.stage_tokens,
                    "cpu_minutes_so_far": round(self.cpu_seconds / 60, 1),
                    "gate_passed": passed,
                    **metrics,
                }
            )
            self.i_stage, self.step, self.stage_tokens = self.i_stage + 1, 0, 0
            self.save(f"after_{stage.name}")
            self.save()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True, help="folder for checkpoints (outside the project)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--width", type=int, default=192)
    parser.add_argument("--heads", type=int, default=3)
    parser.add_argument("--lr", type=float, default=4e-3)
    parser.add_argument("--batch-tokens", type=int, default=4096)
    parser.add_argument("--s4-tokens", type=float, default=6.9e6)
    parser.add_argument("--s5-tokens", type=float, default=8e6)
    parser.add_argument("--s6-tokens", type=float, default=4e6)
    parser.add_argument("--start", type=Path, help="checkpoint to branch from, when FOLDER has none")
    parser.add_argument("--export", type=Path, help="write the model of FOLDER here and stop")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    run = Run(args)
    last = args.work / "last.pt"
    if last.exists() or args.start:
        run.load(last if last.exists() else args.start)
    if args.export:
        run.export(args.export)
    else:
        run.train()


if __name__ == "__main__":
    main()
