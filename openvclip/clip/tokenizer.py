"""Text to token ids: CLIP's byte-pair encoding, with OpenAI's cleaning of the text.

The vocabulary is the file that the package open_clip_torch ships. Only that file is used: importing
open_clip takes seconds, reading the file a tenth of one.
"""

from __future__ import annotations

import gzip
import html
import importlib.util
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

import ftfy
import regex
import torch

from openvclip.utils.errors import DataError

VOCAB_FILE = "bpe_simple_vocab_16e6.txt.gz"
VOCAB_SIZE = 49408
START, END = "<|startoftext|>", "<|endoftext|>"
WORD_END = "</w>"
# Typographic quotation marks, and what cleaning turns them into.
QUOTES = str.maketrans("\u2018\u2019\u201c\u201d", "''\"\"")
# Contractions, runs of letters, single digits, and runs of anything else that is not a space.
WORDS = regex.compile(
    regex.escape(START) + "|" + regex.escape(END)
    + r"|'s|'t|'re|'ve|'m|'ll|'d|\p{L}+|\p{N}|[^\s\p{L}\p{N}]+",
    regex.IGNORECASE,
)


def clean_text(text: str) -> str:
    """Repair the encoding, resolve HTML entities (twice), collapse white space, lower the case."""
    plain = text.translate(QUOTES)
    if plain.isascii() and plain.isprintable() and "&" not in plain:
        return " ".join(plain.split()).lower()  # Nothing to repair or resolve: a tenth of the time.
    text = html.unescape(html.unescape(ftfy.fix_text(text)))
    return regex.sub(r"\s+", " ", text).strip().lower()


def byte_symbols() -> dict[int, str]:
    """Map each byte to the visible character that stands for it in the vocabulary.

    Printable Latin-1 bytes stand for themselves and come first; the 68 others take the characters
    from 256 on. The order of the result is the order of the first 256 token ids.
    """
    visible = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    hidden = [byte for byte in range(256) if byte not in visible]
    symbols = {byte: chr(byte) for byte in visible}
    symbols.update({byte: chr(256 + i) for i, byte in enumerate(hidden)})
    return symbols


def find_in_open_clip(name: str, what: str) -> Path:
    """Find a file of the installed open_clip without importing that package.

    Args:
        name: the file, relative to the package's folder.
        what: what it contains, for the error.

    Raises:
        DataError: it is not there.
    """
    spec = importlib.util.find_spec("open_clip")
    path = Path(spec.origin).parent / name if spec and spec.origin else None
    if path is None or not path.is_file():
        raise DataError(
            f"{what} {name} was not found: install it with `pip install open_clip_torch`"
        )
    return path


def vocabulary_path() -> Path:
    """Find the vocabulary inside the installed open_clip without importing that package."""
    return find_in_open_clip(VOCAB_FILE, "CLIP's vocabulary")


class Tokenizer:
    """CLIP's byte-pair encoder; use :func:`tokenize`, which keeps one instance."""

    def __init__(self) -> None:
        text = gzip.decompress(vocabulary_path().read_bytes()).decode("utf-8")
        self.bytes = byte_symbols()
        letters = list(self.bytes.values())
        # The file's first line is a comment, and it lists more merges than CLIP uses.
        count = VOCAB_SIZE - 2 * len(letters) - 2
        merges = [tuple(line.split()) for line in text.split("\n")[1 : 1 + count]]
        self.ranks = {pair: rank for rank, pair in enumerate(merges)}
        vocabulary = letters + [c + WORD_END for c in letters]
        vocabulary += ["".join(pair) for pair in merges] + [START, END]
        self.ids = {token: i for i, token in enumerate(vocabulary)}
        self.words: dict[str, list[int]] = {w: [self.ids[w]] for w in (START, END)}

    def merge(self, word: str) -> list[str]:
        """Split a word of byte symbols into tokens: join the best-ranked pair until none is left.

        Ranks come from the vocabulary file (Sennrich et al. 2016, arXiv 1508.07909).
        """
        parts = [*word[:-1], word[-1] + WORD_END]
        while len(parts) > 1:
            pairs = set(zip(parts, parts[1:], strict=False))
            best = min(pairs, key=lambda pair: self.ranks.get(pair, len(self.ranks)))
            if best not in self.ranks:
                break
            joined: list[str] = []
            i = 0
            while i < len(parts):
                if (parts[i], *parts[i + 1 : i + 2]) == best:
                    joined.append(parts[i] + parts[i + 1])
                    i += 2
                else:
                    joined.append(parts[i])
                    i += 1
            parts = joined
        return parts

    def encode(self, text: str) -> list[int]:
        """Return the token ids of ``text``, without start and end tokens."""
        ids: list[int] = []
        for word in WORDS.findall(clean_text(text)):
            if word not in self.words:
                symbols = "".join(self.bytes[byte] for byte in word.encode("utf-8"))
                self.words[word] = [self.ids[token] for token in self.merge(symbols)]
            ids += self.words[word]
        return ids


@lru_cache(maxsize=1)
def _tokenizer() -> Tokenizer:
    return Tokenizer()


def count_tokens(text: str) -> int:
    """Return the number of tokens of a text of any length, start and end token included."""
    # No token spans a space, so words that occur again and again are counted once.
    return sum(map(_word_tokens, clean_text(text).split(" "))) + 2


@lru_cache(maxsize=1 << 20)
def _word_tokens(word: str) -> int:
    return len(_tokenizer().encode(word))


def tokenize(
    texts: Sequence[str], context_length: int = 77, *, truncate: bool = False
) -> torch.Tensor:
    """Turn texts into token ids: start token, text, end token, then zeros.

    Args:
        texts: the texts; a lone string counts as a list of one.
        context_length: number of columns; 77 in CLIP.
        truncate: keep a longer text's first tokens and the end token, as OpenAI's CLIP can.

    Returns:
        int64 (len(texts), context_length).

    Raises:
        DataError: a text has more than ``context_length`` tokens and ``truncate`` is off.
    """
    tokenizer = _tokenizer()
    texts = [texts] if isinstance(texts, str) else texts
    result = torch.zeros(len(texts), context_length, dtype=torch.int64)
    for row, text in zip(result, texts, strict=True):
        ids = [tokenizer.ids[START], *tokenizer.encode(text), tokenizer.ids[END]]
        if len(ids) > context_length and truncate:
            ids = [*ids[: context_length - 1], tokenizer.ids[END]]
        elif len(ids) > context_length:
            shown = text if len(text) <= 80 else text[:77] + "..."
            raise DataError(
                f"text of {len(ids)} tokens does not fit into the context of {context_length}: "
                f"{shown!r}; shorten the class name"
            )
        row[: len(ids)] = torch.tensor(ids)
    return result
