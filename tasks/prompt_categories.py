"""What harm a prompt asks for, by a linear classifier in one file: a harm category, none (harmless), or unknown.

It looks at words and word pairs, at letters in fours, hashed (Weinberger et al. 2009, https://arxiv.org/abs/0902.2206) and
weighted by their rarity, and at an embedding where its card names one. A prompt whose likeliest category is less likely than
the card's threshold is unknown. `tasks.train_categories` makes the file; another file is another classifier.
"""

import hashlib
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from scipy.sparse import csr_matrix, diags, hstack
from scipy.special import softmax
from sklearn.feature_extraction.text import HashingVectorizer
from sklearn.preprocessing import normalize

from schemas.errors import MidwatchError
from schemas.rows import UNKNOWN
from tasks.judges.sealed import seal, unseal

FORMAT = "midwatch-prompts-1"
VERSION = 1  # raise by hand with every change that can change a value: files of another version are refused
EMBEDDED = 4.0  # norm of an embedding beside 1 for the words and 1 for the letters

Floats = npt.NDArray[np.floating[Any]]

_CHUNK = 10_000  # texts whose words are in memory together
_LETTER = re.compile(r"[^\W_]")
_HASHED = {"norm": None, "alternate_sign": False, "dtype": np.float32}
_PARTS = (
    HashingVectorizer(ngram_range=(1, 2), token_pattern=r"(?u)\b\w+\b", n_features=1 << 14, **_HASHED),
    HashingVectorizer(analyzer="char_wb", ngram_range=(4, 4), n_features=1 << 15, **_HASHED),
)


class ClassifierError(MidwatchError):
    """The file is no classifier of prompts, or was altered, or lacks the embeddings that it was fitted on."""


class Categorised(NamedTuple):
    """A category and its probability; None where there is nothing to read."""

    harm_category: str
    score: float | None


Categorise = Callable[[Sequence[str]], list[Categorised]]


@dataclass(frozen=True, eq=False)
class Classifier:
    """A fitted classifier; `classifier_id` is the first 32 digits of the SHA-256 of the file, which `data` holds."""

    classifier_id: str
    card: Mapping[str, Any]
    data: bytes = field(repr=False)
    weights: Floats = field(repr=False)  # a row for each class
    bias: Floats = field(repr=False)
    idf: Floats = field(repr=False)

    @property
    def embedding(self) -> str | None:
        """The model whose vectors `categorise` needs; None where the texts alone will do."""
        return self.card["embedding"]

    def categorise(self, texts: Sequence[str], vectors: Floats | None = None) -> list[Categorised]:
        """The category of each text, in the same order; a text without letter or digit is unknown, without a score.

        `vectors` has a row for each text, by the model that `embedding` names; ClassifierError where they do not fit.
        """
        size = self.weights.shape[1] - len(self.idf)
        came = 0 if vectors is None else vectors.shape[1]
        if came != size:
            raise ClassifierError(f"{self.card['name']} takes vectors of {size} numbers by {self.embedding}, got {came}")
        found: list[Categorised] = []
        for at in range(0, len(texts), _CHUNK):
            part = texts[at : at + _CHUNK]
            x = inputs(counted(part), self.idf, None if vectors is None else vectors[at : at + _CHUNK])
            stated = softmax(x @ self.weights.T + self.bias, axis=1)
            found += [self._categorised(text, row) for text, row in zip(part, stated, strict=True)]
        return found

    def _categorised(self, text: str, stated: Floats) -> Categorised:
        if not is_readable(text):
            return Categorised(UNKNOWN, None)
        k = int(stated.argmax())
        score = float(stated[k])
        return Categorised(self.card["classes"][k] if score >= self.card["threshold"] else UNKNOWN, score)


def is_readable(text: str) -> bool:
    """Whether there is a letter or digit."""
    return _LETTER.search(text) is not None


def counted(texts: Sequence[str]) -> csr_matrix:
    """How often each hashed word and group of letters stands in each text, one below the other logarithmically (1 + ln n)."""
    counts = hstack([part.transform(texts) for part in _PARTS]).tocsr()
    counts.data = 1 + np.log(counts.data)
    return counts


def inputs(counts: csr_matrix, idf: Floats, vectors: Floats | None) -> csr_matrix:
    """A row for each text: words and letters weighted by `idf`, each part to norm 1, and the embedding."""
    weighed = (counts @ diags(idf)).tocsc()
    split = _PARTS[0].n_features
    parts = [normalize(weighed[:, :split]), normalize(weighed[:, split:])]
    return hstack(parts if vectors is None else [*parts, EMBEDDED * normalize(vectors)]).tocsr()


def dump(card: Mapping[str, Any], weights: Floats, bias: Floats, idf: Floats) -> bytes:
    """The file of a classifier: the same parts are the same bytes."""
    return seal({**card, "format": FORMAT, "features": VERSION}, {"weights": weights, "bias": bias, "idf": idf})


def parse(data: bytes, where: str) -> Classifier:
    """The classifier in the bytes of a file; ClassifierError says what is wrong with `where`."""
    try:
        card, arrays, is_intact = unseal(data)
        found = card["format"], card["features"]
    except (ValueError, KeyError) as e:
        raise ClassifierError(
            f"{where}: no classifier of prompts, or cut short ({e}); `midwatch observe train` makes one"
        ) from e
    if found != (FORMAT, VERSION):
        raise ClassifierError(f"{where}: format {found[0]}, features {found[1]}; expected {FORMAT}, {VERSION}: train it again")
    if not is_intact:
        raise ClassifierError(f"{where}: altered since it was written: its checksum does not match; fetch or train it again")
    return Classifier(hashlib.sha256(data).hexdigest()[:32], card, data, arrays["weights"], arrays["bias"], arrays["idf"])


def load(path: Path) -> Classifier:
    """The classifier in a file; ClassifierError when it can't be read or is no intact one of this version."""
    try:
        data = path.read_bytes()
    except OSError as e:
        raise ClassifierError(f"{path}: {e.strerror or e}") from e
    return parse(data, str(path))
