"""Text and conversations into token shards: streaming, in constant memory, going on where it was stopped.

k2 train prepare pages.jsonl.gz notes.txt --tokenizer out/tokenizer --out out/text
"""

from __future__ import annotations

import gzip
import io
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from openk2.chat.messages import Message, ToolSpec
from openk2.chat.shards import ShardWriter
from openk2.chat.template import render_for_training
from openk2.chat.tokenizer import Tokenizer
from openk2.errors import UserError

_SUFFIXES = (".txt", ".md", ".py", ".jsonl", ".jsonl.gz")
_STATE = "prepare.json"
_BLOCK = 1 << 20  # characters of a text file that are one text


@dataclass
class Counts:
    """What was made so far, over all resumptions: whole records read, and what became of them."""

    records: int = 0
    shards: int = 0
    tokens: int = 0


def prepare(
    paths: Sequence[Path], tokenizer: Path, out: Path, *, shard_tokens: int = 10_000_000,
    say: Callable[[str], None] = print,
) -> Counts:  # fmt: skip
    """Write the shards of all records of `paths` in order, about `shard_tokens` tokens each; returns what was made.

    A text becomes a document, [BOS] before and [EOS] behind it, every token to be learned (training cuts it to its own
    context); a conversation one of which the model's own tokens of the last turn are. Shards hold one kind each.
    Finished shards are kept, so that the same call goes on after a kill. Raises UserError for a record or a file that
    cannot be read, naming the line, and when `out` was made of something else.
    """
    tok = Tokenizer.load(tokenizer)
    files = list(_files(paths))
    if not files:
        raise UserError(f"{paths[0]} holds no text to learn from: no {', '.join(_SUFFIXES)} file.")
    given = {"files": [str(file) for file in files], "vocabulary": tok.n_vocab}
    state, counts = out / _STATE, Counts()
    if state.exists():
        saved = json.loads(state.read_text(encoding="utf-8"))
        if saved["given"] != given:
            raise UserError(f"{out} was made of other files or with other options; give the same, or another --out.")
        counts = Counts(**saved["counts"])
        say(f"going on after {counts.records} records")
    out.mkdir(parents=True, exist_ok=True)
    shard: ShardWriter | None = None
    masked = False

    def finish() -> None:
        """The shard exists from now on, and no record in it is read again."""
        nonlocal shard
        if shard and shard.tokens:
            shard.close()
            counts.shards += 1
            part = state.with_suffix(".part")
            part.write_text(json.dumps({"given": given, "counts": vars(counts)}), encoding="utf-8")
            part.replace(state)
            say(f"{shard.path.name}: {counts.records} records, {counts.tokens / 1e6:.2f}M tokens so far")
        shard = None

    for number, (place, record) in enumerate(_records(files)):
        if number < counts.records:
            continue
        try:
            conversation = not isinstance(record, str)
            ids, mask = _conversation(tok, record) if conversation else _text(tok, record)
        except (UserError, ValueError, TypeError, KeyError, AttributeError) as error:
            raise UserError(f"{place} is no record to learn from ({error}); mend or remove it.") from None
        if shard and (masked != conversation or shard.tokens >= shard_tokens):
            finish()
        masked = conversation
        shard = shard or ShardWriter(out / f"part-{counts.shards:05d}", tok.n_vocab, masked)
        shard.add(ids, mask)
        counts.records, counts.tokens = number + 1, counts.tokens + len(ids)
    finish()
    return counts


def texts(paths: Sequence[Path]) -> Iterator[str]:
    """All lines of the files that `prepare` takes, to learn a tokenizer from. Raises UserError as it does."""
    for _, record in _records(_files(paths)):
        if isinstance(record, str):
            yield from io.StringIO(record)
        else:
            for message in record["messages"]:
                yield from (v for v in (message.get("reasoning_content"), message.get("content")) if isinstance(v, str))


def _text(tok: Tokenizer, text: str) -> tuple[list[int], list[int]]:
    return [tok.special["[BOS]"], *tok.encode(text), tok.special["[EOS]"]], []


def _conversation(tok: Tokenizer, record: dict[str, Any]) -> tuple[list[int], list[int]]:
    messages = [Message.from_json(message) for message in record["messages"]]
    functions = [tool["function"] for tool in record.get("tools") or []]
    tools = [ToolSpec(f["name"], f.get("description", ""), f.get("parameters", {})) for f in functions]
    ids, mask = render_for_training(tok, messages, tools)
    if not any(mask):
        raise ValueError("the model says nothing in its last turn")
    return ids, mask


def _files(paths: Iterable[Path]) -> Iterator[Path]:
    for path in paths:
        if path.is_dir():
            yield from sorted(f for f in path.rglob("*") if f.name.endswith(_SUFFIXES))
        else:
            yield path


def _records(files: Iterable[Path]) -> Iterator[tuple[str, str | dict[str, Any]]]:
    """(place, text or conversation) of every record: each line of a .jsonl, other files in blocks of a megabyte."""
    for file in files:
        try:
            with _open(file) as lines:
                if ".jsonl" not in file.suffixes:
                    while block := lines.read(_BLOCK):
                        yield str(file), block + lines.readline(_BLOCK)
                    continue
                for number, line in enumerate(lines, 1):
                    if line.strip():
                        yield f"{file}:{number}", _record(line, f"{file}:{number}")
        except (OSError, EOFError, UnicodeDecodeError) as error:
            reason = getattr(error, "strerror", None) or error
            raise UserError(f"{file} cannot be read ({reason}); give text files or JSON lines.") from None


def _record(line: str, place: str) -> str | dict[str, Any]:
    try:
        record = json.loads(line)
    except ValueError as error:
        raise UserError(f"{place} is no JSON ({error}); mend or remove it.") from None
    if isinstance(record, dict) and isinstance(record.get("messages"), list):
        return record
    if isinstance(record, dict) and isinstance(record.get("text"), str):
        return record["text"]
    raise UserError(f"{place} has neither `text` nor `messages`; mend or remove it.")


def _open(file: Path) -> io.TextIOBase:
    return gzip.open(file, "rt", encoding="utf-8") if file.suffix == ".gz" else file.open(encoding="utf-8")  # type: ignore[return-value]
