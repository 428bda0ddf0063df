"""Text to token ids and back: a tiktoken BPE in Kimi's layout, for Kimi's own files and for our small ones.

Ordinary text never becomes a special token: `encode("<|im_end|>")` gives the ids of those characters, so nothing
that a user, a page or a tool writes can forge markup. Specials are reached by name only, through `special`.
"""

from __future__ import annotations

import codecs
import json
import re
from base64 import b64decode
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Literal

import tiktoken

from openk2.errors import UserError

# How Kimi splits text before byte-pair merging (tokenization_kimi.py, Kimi-K2 repository).
PATTERN = "|".join(
    [
        r"[\p{Han}]+",
        r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}&&[^\p{Han}]]*"
        r"[\p{Ll}\p{Lm}\p{Lo}\p{M}&&[^\p{Han}]]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?",
        r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}&&[^\p{Han}]]+"
        r"[\p{Ll}\p{Lm}\p{Lo}\p{M}&&[^\p{Han}]]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?",
        r"\p{N}{1,3}",
        r" ?[^\s\p{L}\p{N}]+[\r\n]*",
        r"\s*[\r\n]+",
        r"\s+(?!\S)",
        r"\s+",
    ]
)

# Names of Kimi's special tokens by their distance from the first special id; the last two ids are [UNK] and [PAD].
SPECIAL_OFFSETS = {
    0: "[BOS]",
    1: "[EOS]",
    2: "<|im_end|>",
    3: "<|im_user|>",
    4: "<|im_assistant|>",
    6: "<|start_header_id|>",
    7: "<|end_header_id|>",
    9: "[EOT]",
    10: "<|im_system|>",
    11: "<|tool_calls_section_begin|>",
    12: "<|tool_calls_section_end|>",
    13: "<|tool_call_begin|>",
    14: "<|tool_call_argument_begin|>",
    15: "<|tool_call_end|>",
    17: "<|im_middle|>",
    18: "<|media_begin|>",
    19: "<|media_content|>",
    20: "<|media_end|>",
    21: "<|media_pad|>",
    22: "<think>",
    23: "</think>",
}

# The Rust regex engine backtracks on giant inputs; Kimi cuts text at these lengths, so the ids depend on them.
MAX_CHARS = 400_000
MAX_RUN = 25_000
MAX_SPECIAL = 4096  # more special ids than any Kimi has
# Tried at the start of a run only: without the look-behind, a run a little too short is scanned from each character.
_LONG_RUN = re.compile(rf"(?<!\s)\s{{{MAX_RUN + 1},}}|(?<!\S)\S{{{MAX_RUN + 1},}}")

TemplateName = Literal["instruct", "thinking"]


class Tokenizer:
    """A byte-level BPE: `ranks` maps token bytes to ids 0..N-1, `special` maps names to the ids from N on.

    `template` says how conversations are written for this checkpoint (`chat/template.py`).
    """

    def __init__(self, ranks: dict[bytes, int], special: dict[str, int], template: TemplateName = "thinking") -> None:
        self.special = special
        self.template: TemplateName = template
        self.n_base = len(ranks)
        self.n_vocab = max(len(ranks), max(special.values(), default=-1) + 1)
        self._bytes = [b""] * self.n_vocab  # of each id
        for token, i in ranks.items():
            self._bytes[i] = token
        for name, i in special.items():
            self._bytes[i] = name.encode()
        self._encoding = tiktoken.Encoding("kimi", pat_str=PATTERN, mergeable_ranks=ranks, special_tokens=special)

    @classmethod
    def load(cls, path: str | Path, template: TemplateName | None = None) -> Tokenizer:
        """Load a folder that holds `tiktoken.model` and `tokenizer_config.json` (or the path of that model file).

        `template` None reads it from the folder, see `template_of`. Raises UserError when a file is missing or damaged.
        """
        folder = Path(path)
        model = folder if folder.is_file() else folder / "tiktoken.model"
        try:
            ranks = _read_ranks(model)
            config = _read_config(model.parent)
            return cls(ranks, _read_special(config, len(ranks)), template or _template(model.parent, config))
        except FileNotFoundError as error:
            raise UserError(
                f"No tokenizer at {folder}: {Path(error.filename).name} is missing; "
                "give a folder with tiktoken.model and tokenizer_config.json."
            ) from None
        except (OSError, ValueError, KeyError, AttributeError, TypeError, RecursionError) as error:
            raise UserError(f"The tokenizer at {folder} cannot be read ({error}); fetch or train it again.") from error

    def encode(self, text: str) -> list[int]:
        """The ids of ordinary text; never a special id."""
        if len(text) <= MAX_RUN:
            return self._encoding.encode_ordinary(text)
        ids: list[int] = []
        for piece in split_giant(text):
            ids += self._encoding.encode_ordinary(piece)
        return ids

    def decode(self, ids: Iterable[int]) -> str:
        """The text of ids, special tokens by their names; bytes that are not UTF-8 become U+FFFD."""
        return self.decode_bytes(ids).decode("utf-8", errors="replace")

    def decode_bytes(self, ids: Iterable[int]) -> bytes:
        """The exact bytes of ids. Raises KeyError for an id outside the vocabulary."""
        return self._encoding.decode_bytes(list(ids))

    def is_special(self, token: int) -> bool:
        return token >= self.n_base

    def text_stream(self) -> TextStream:
        """A decoder for ids that come one by one."""
        return TextStream(self)


class TextStream:
    """Ids to text as they come: a character is given out once all its bytes are there, and never halved."""

    def __init__(self, tok: Tokenizer) -> None:
        self._bytes = tok._bytes
        self._utf8 = codecs.getincrementaldecoder("utf-8")("replace")
        self._halved = False  # a character has begun and not ended

    def feed(self, token: int) -> str:
        """The characters that an id completes; those of the ids so far are exactly the decoded bytes of them all."""
        data = self._bytes[token]
        if not self._halved:
            try:
                return data.decode()
            except UnicodeDecodeError:
                pass
        text = self._utf8.decode(data)
        self._halved = bool(self._utf8.getstate()[0])
        return text

    def flush(self) -> str:
        """What is left of an unfinished character (U+FFFD); the stream starts afresh."""
        if not self._halved:
            return ""
        rest = self._utf8.decode(b"", final=True)
        self._utf8.reset()
        self._halved = False
        return rest


def split_giant(text: str) -> Iterator[str]:
    """Cut text as Kimi's tokenizer does: every MAX_CHARS characters, and inside longer runs of (non-)whitespace."""
    for start in range(0, len(text), MAX_CHARS):
        part = text[start : start + MAX_CHARS]
        cut = 0
        for run in _LONG_RUN.finditer(part):
            for end in range(run.start() + MAX_RUN, run.end(), MAX_RUN):
                yield part[cut:end]
                cut = end
        yield part[cut:]


def special_names(first: int, count: int) -> dict[int, str]:
    """Kimi's names for the `count` special ids from `first` on; gaps are `<|reserved_token_ID|>`."""
    names = {first + i: SPECIAL_OFFSETS.get(i, f"<|reserved_token_{first + i}|>") for i in range(count)}
    names[first + count - 2] = "[UNK]"
    names[first + count - 1] = "[PAD]"
    return names


def template_of(folder: str | Path) -> TemplateName:
    """How a checkpoint's conversations are written, from what stands in its folder. First that says it wins:

    - `openk2.json`: `"template": "instruct"` or `"thinking"`;
    - its own chat template (`chat_template.jinja`, or `chat_template` in `tokenizer_config.json`): one that writes
      `<think>` is "thinking", any other "instruct" (K2-Instruct's has no thinking);
    - without a template, "thinking" if `tokenizer_config.json` names `<think>` or K2 Thinking's stand-ins for it.

    Raises UserError for a template of a later generation (K2.5 declares tools in TypeScript), which neither name fits.
    """
    folder = Path(folder)
    return _template(folder, _read_config(folder))


def _template(folder: Path, config: dict[str, Any]) -> TemplateName:
    profile = folder / "openk2.json"
    said = json.loads(profile.read_text(encoding="utf-8")).get("template") if profile.exists() else None
    if said == "instruct" or said == "thinking":
        return said
    if said is not None:
        raise UserError(f"{profile} names the template {said!r}; use instruct or thinking.")
    own = folder / "chat_template.jinja"
    jinja = own.read_text(encoding="utf-8") if own.exists() else config.get("chat_template")
    if isinstance(jinja, list):  # several named ones
        jinja = "".join(str(entry.get("template")) for entry in jinja)
    if isinstance(jinja, str) and "tools_ts_str" in jinja:
        raise UserError(
            f"The checkpoint at {folder} is of the K2.5 generation, whose chat template is not known here; "
            'write {"template": "thinking"} into its openk2.json to use that of K2 Thinking.'
        )
    if isinstance(jinja, str):
        return "thinking" if "<think>" in jinja else "instruct"
    names = {entry.get("content") for entry in config["added_tokens_decoder"].values()}
    return "thinking" if names & {"<think>", "[extra_id_17]"} else "instruct"


def _read_config(folder: Path) -> dict[str, Any]:
    config = json.loads((folder / "tokenizer_config.json").read_text(encoding="utf-8"))
    if not isinstance(config, dict):
        raise ValueError("tokenizer_config.json is not an object")
    return config


def _read_ranks(model: Path) -> dict[bytes, int]:
    ranks: dict[bytes, int] = {}
    lines = model.read_bytes().split(b"\n")
    for line in lines:
        if line:
            token, rank = line.split()
            ranks[b64decode(token, validate=True)] = int(rank)
    if list(ranks.values()) != list(range(len(ranks))):
        raise ValueError("tiktoken.model does not hold the ranks 0, 1, 2, ... once each")
    missing = next((byte for byte in range(256) if bytes([byte]) not in ranks), None)
    if missing is not None:
        raise ValueError(f"tiktoken.model has no token for the byte {missing}")
    return ranks


def _read_special(config: dict[str, Any], n_base: int) -> dict[str, int]:
    """Special names and ids of a `tokenizer_config.json`; ids between them are reserved ones."""
    named = {int(i): str(entry["content"]) for i, entry in config["added_tokens_decoder"].items()}
    if not named or min(named) < n_base or max(named) > n_base + MAX_SPECIAL:
        raise ValueError("tokenizer_config.json does not name the special ids behind those of tiktoken.model")
    # Early Kimi K2 Thinking configurations leave the thinking tokens unnamed (or call them [extra_id_N]).
    for offset, name in SPECIAL_OFFSETS.items():
        current = named.get(n_base + offset)
        if name not in named.values() and (current is None or current.startswith("[extra_id_")):
            named[n_base + offset] = name
    special = {named.get(i, f"<|reserved_token_{i}|>"): i for i in range(n_base, max(named) + 1)}
    lost = [name for name in SPECIAL_OFFSETS.values() if name not in special]
    if lost:
        raise ValueError(f"tokenizer_config.json names no {lost[0]}")
    return special
