"""The tokenizer, and a fast encoder for generated documents that agrees with it token by token.

Byte-level BPE trained on the corpus until its merges are used up, so that each word of the world is one token. A line
always starts with a space inside the tokenizer, so that a word has one token wherever it stands; decoding takes the
space away again.
"""

import re
from pathlib import Path
from random import Random

import documents as docs
import world as w
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

BOS, EOS, PAD = "<s>", "</s>", "<pad>"
PIECES = r" ?[A-Za-z]+| ?\d| ?[^\sA-Za-z\d]+|\s"


def build_tokenizer(seed: int = 0, n_documents: int = 4000) -> Tokenizer:
    """Train the tokenizer on a sample of the corpus and on every word of the lexicon."""
    tokenizer = Tokenizer(models.BPE())
    replace = [("\n", "\n "), (" {2,}", " "), (" +\n", "\n"), (r"\n +\z", "\n")]
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.Prepend(" "), *(normalizers.Replace(Regex(old), new) for old, new in replace)]
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(PIECES), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.Sequence(
        [decoders.ByteLevel(), decoders.Replace("\n ", "\n"), decoders.Strip(" ", 1, 0)]
    )
    trainer = trainers.BpeTrainer(
        vocab_size=8192,
        min_frequency=1,
        show_progress=False,
        special_tokens=[BOS, EOS, PAD],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
    )
    rng = Random(seed)
    texts = [" " + " ".join(sorted(w.LEXICON))] * 5
    texts.append(" " + " ".join(w.plural(noun) for noun in w.PLURAL_NOUNS))
    texts += ["".join(text for text, _ in docs.plain_document(rng)) for _ in range(n_documents)]
    words_only = docs.S3.__class__(plain=0, tasks=1, n_labels=len(docs.LABEL_ORDER), n_formats=len(docs.FORMATS))
    texts += ["".join(text for text, _ in docs.document(rng, words_only, 8)) for _ in range(n_documents)]
    texts.append(" " + " ".join(docs.HEADINGS + docs.ANSWER_HEADINGS + docs.MARKS + docs.OPENING_MARKS))
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


def save_tokenizer(tokenizer: Tokenizer, folder: Path, max_length: int) -> None:
    """Write tokenizer.json and tokenizer_config.json for AutoTokenizer."""
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=BOS,
        eos_token=EOS,
        pad_token=PAD,
        padding_side="left",
        model_max_length=max_length,
        clean_up_tokenization_spaces=False,
    )
    fast.save_pretrained(folder)


class Encoder:
    """Segments to token ids, through a table of pieces already met."""

    def __init__(self, tokenizer: Tokenizer):
        self.tokenizer = tokenizer
        self.bos, self.eos, self.pad = (tokenizer.token_to_id(t) for t in (BOS, EOS, PAD))
        self._pieces = re.compile(PIECES)
        self._ids: dict[str, list[int]] = {}

    def piece(self, piece: str) -> list[int]:
        ids = self._ids.get(piece)
        if ids is None:
            if piece[0].isspace():
                ids = self.tokenizer.encode(piece).ids
            else:  # after a neighbour of the other class, so that no space is put before it
                ids = self.tokenizer.encode((" ." if piece[0].isalnum() else " x") + piece).ids[1:]
            if len(self._ids) < 200_000:
                self._ids[piece] = ids
        return ids

    def segments(self, segments: docs.Segments) -> tuple[list[int], list[int]]:
        """Ids and kinds of a document, from its beginning-of-sequence token to its end token."""
        ids, kinds, line_start = [self.bos], [docs.TEXT], True
        for text, kind in segments:
            if line_start and not text[0].isspace():
                text = " " + text
            if "\n" in text[:-1]:
                text = re.sub(r"\n(?=\S)", "\n ", text)
            for piece in self._pieces.findall(text):
                piece_ids = self.piece(piece)
                ids += piece_ids
                kinds += [kind] * len(piece_ids)
            line_start = text.endswith("\n")
        return [*ids, self.eos], [*kinds, docs.TEXT]
