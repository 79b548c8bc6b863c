"""The peak in words: every term of the sum, with its factors and units.

Two accounts of the same bytes. `terms` reads them off a table, for any model: exactly the peak. `closed_form` derives
what is stored for the backward pass from the architecture, for decoders of the Llama family, where each term has a
reason: it is what a reader can check by hand.

Source: `closed_form` counts what autograd saves for each operation of transformers 5's `modeling_llama.py`; Korthikanti
et al. 2022 do the same for a GPT layer.
"""

from dataclasses import dataclass

from peft_lessons.accounting.polynomials import N_TERMS, length_terms
from peft_lessons.accounting.step import CATEGORIES
from peft_lessons.accounting.tables import STATES, TEMPORARIES, Table

LENGTH_TERMS = ("", "tokens", "tokens²", *(f"{f}tokens rounded to {n}s" for n in (32, 16) for f in ("", "tokens × ")))


@dataclass(frozen=True)
class Term:
    """One term of a sum of bytes."""

    category: str
    formula: str
    n_bytes: int


def terms(table: Table, layers: int, batch: int, length: int, rank: int = 1, optimizer: str = "adamw") -> list[Term]:
    """What is held at the peak, term by term; the bytes add up to the peak exactly.

    Args:
        table: of the model and setup.
        layers: of the model.
        batch: sequences in a batch.
        length: tokens in a sequence.
        rank: of the method, where it has one.
        optimizer: one of `OPTIMIZERS`.

    Raises:
        ValueError: as in `Table.evaluate`.
    """
    moment = table.peak_moment(layers, batch, length, rank, optimizer)
    lengths = length_terms(length)
    found = []
    for row, category in zip(moment.polynomials, CATEGORIES, strict=True):
        for coefficient, column in zip(row, table.columns, strict=True):
            if not coefficient:
                continue
            by_layer, rest = divmod(int(column), 4 * N_TERMS)
            power, term = divmod(rest, N_TERMS)
            factors = [f"{coefficient:,.10g} B"]
            factors += [f"{layers} layers"] if by_layer else []
            factors += [f"batch {batch}"] if power & 2 else []
            factors += [f"{lengths[term]:,} {LENGTH_TERMS[term]}"] if term else []
            factors += [f"rank {rank}"] if power & 1 else []
            size = coefficient * (layers if by_layer else 1) * (batch if power & 2 else 1)
            size *= lengths[term] * (rank if power & 1 else 1)
            found.append(Term(category, " × ".join(factors), round(float(size))))
    states, _ = table.optimizer_bytes(layers, rank, optimizer)
    if states:
        found.append(Term(CATEGORIES[STATES], f"states of {optimizer} for every trained tensor", states))
    if moment.update:
        found.append(Term(CATEGORIES[TEMPORARIES], f"what one step of {optimizer} needs for a moment", moment.update))
    return found
