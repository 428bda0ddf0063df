from __future__ import annotations

import json
import random
import time
import unicodedata
from base64 import b64decode
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import pytest

from openk2.chat.tokenizer import MAX_CHARS, MAX_RUN, PATTERN, SPECIAL_OFFSETS, Tokenizer, split_giant, template_of
from openk2.chat.train_tokenizer import MIN_VOCAB, train
from openk2.errors import UserError

# As the published tokenizer splits text (Kimi-K2, tokenization_kimi.py).
_WORD = (
    r"[^\r\n\p{L}\p{N}]?",
    r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}&&[^\p{Han}]]",
    r"[\p{Ll}\p{Lm}\p{Lo}\p{M}&&[^\p{Han}]]",
)
_ENDING = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
KIMI_PATTERN = (
    rf"[\p{{Han}}]+|{_WORD[0]}{_WORD[1]}*{_WORD[2]}+{_ENDING}|{_WORD[0]}{_WORD[1]}+{_WORD[2]}*{_ENDING}"
    r"|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def test_special_names_in_text_are_text(tok: Tokenizer) -> None:
    for name in tok.special:
        ids = tok.encode(f"a{name}b")
        assert not any(map(tok.is_special, ids))
        assert tok.decode(ids) == f"a{name}b"


def test_random_text_round_trips(tok: Tokenizer) -> None:
    rng = random.Random(0)
    alphabet = "ab Z1293\n\r\t\"'[](){}_\\.,:;é漢字かな😀\u0301ا\u00a0½"
    for _ in range(300):
        text = "".join(rng.choices(alphabet, k=rng.randrange(60)))
        assert tok.decode(tok.encode(text)) == text


def test_special_ids_stand_at_kimis_places(tok: Tokenizer) -> None:
    for offset, name in SPECIAL_OFFSETS.items():
        assert tok.special[name] == tok.n_base + offset
    assert (tok.special["[UNK]"], tok.special["[PAD]"]) == (tok.n_vocab - 2, tok.n_vocab - 1)
    assert sorted(tok.special.values()) == list(range(tok.n_base, tok.n_vocab))


def test_kimi_ids(kimi: Tokenizer) -> None:
    tok = kimi
    assert (tok.n_vocab, tok.special["<|im_end|>"], tok.special["<think>"]) == (163840, 163586, 163606)
    assert tok.special["<|reserved_token_163589|>"] == 163589


def test_numbers_are_tokens_of_one_to_three_digits(small: Tokenizer) -> None:
    for number in [*map(str, range(1000)), *(f"{i:02d}" for i in range(100)), *(f"{i:03d}" for i in range(1000))]:
        assert len(small.encode(number)) == 1
    assert [small.decode([i]) for i in small.encode("1234567")] == ["123", "456", "7"]


@pytest.mark.parametrize("prefix", ['"', "'", "[", "(", "\\", "\n", "\t", "_", ".", "{", "\u00a0"])
def test_punctuation_before_a_word_leaves_the_word_as_it_is(small: Tokenizer, prefix: str) -> None:
    for word in ["Kenya", "population", "the", "Print", "Ärzte"]:
        assert small.encode(prefix + word) == small.encode(prefix) + small.encode(word)


def test_no_learned_token_mixes_letters_with_anything_but_one_leading_space(small: Tokenizer) -> None:
    for i in range(256, small.n_base):
        text = small.decode_bytes([i]).decode("utf-8", errors="ignore")
        if any(map(str.isalpha, text)):
            assert text.removeprefix(" ").isalpha(), text


def test_training_and_encoding_split_alike() -> None:
    """The trainer's regex engine reads Kimi's pattern as the tokenizer's does."""
    tokenizers = pytest.importorskip("tokenizers")
    regex = pytest.importorskip("regex")
    split = tokenizers.pre_tokenizers.Split(tokenizers.Regex(PATTERN), "isolated")
    text = "Hé' l\u0301 漢字かな ٣٤٥ ½²  \n\n x\t\ty DON'T It's we'll \u00a0foo _a b-c 12345 HTMLParser\r\n  end  "
    assert [piece for piece, _ in split.pre_tokenize_str(text)] == regex.compile(PATTERN, regex.V1).findall(text)


def test_any_bytes_round_trip(small: Tokenizer) -> None:
    every = bytes(range(256))
    ids = [i for i in range(small.n_base) if len(small.decode_bytes([i])) == 1]
    assert {small.decode_bytes([i]) for i in ids} == {bytes([b]) for b in every}


def test_files_are_in_kimis_layout(small: Tokenizer, tmp_path: Path) -> None:
    train(["some words of text to learn from, more words"] * 3, MIN_VOCAB + 5, tmp_path)
    lines = (tmp_path / "tiktoken.model").read_text("ascii").splitlines()
    assert b64decode(lines[0].split()[0]) == b"!"
    assert [int(line.split()[1]) for line in lines] == list(range(256 + 1100 + 5))
    config = json.loads((tmp_path / "tokenizer_config.json").read_text("utf-8"))
    assert config["tokenizer_class"] == "TikTokenTokenizer"
    assert config["added_tokens_decoder"][str(len(lines) + 22)] == {
        "content": "<think>", "lstrip": False, "normalized": False, "rstrip": False, "single_word": False,
        "special": False,
    }  # fmt: skip


def test_config_equals_kimis_but_for_the_ids(small: Tokenizer, kimi_folder: Path) -> None:
    from openk2.chat.train_tokenizer import tokenizer_config

    real = json.loads((kimi_folder / "tokenizer_config.json").read_text("utf-8"))
    assert tokenizer_config(163584, 256) == real


def test_giant_text_is_cut_as_kimi_cuts_it() -> None:
    text = "x" * (2 * MAX_RUN + 7) + " " + "y " * 40_000 + " " * (MAX_RUN + 1) + "z" * MAX_CHARS
    assert "".join(split_giant(text)) == text
    assert list(split_giant(text)) == list(_kimi_cuts(text))


def _kimi_cuts(text: str):
    """The loop of tokenization_kimi.py."""
    for start in range(0, len(text), MAX_CHARS):
        part = text[start : start + MAX_CHARS]
        length, is_space, cut = 0, part[0].isspace(), 0
        for i, char in enumerate(part):
            if is_space != char.isspace():
                length, is_space = 1, char.isspace()
            else:
                length += 1
                if length > MAX_RUN:
                    yield part[cut:i]
                    cut, length = i, 1
        yield part[cut:]


def test_loads_fast(small: Tokenizer, tmp_path: Path) -> None:
    train(["some words of text to learn from, more words"] * 3, MIN_VOCAB + 5, tmp_path)
    times = []
    for _ in range(3):
        start = time.perf_counter()
        Tokenizer.load(tmp_path)
        times.append(time.perf_counter() - start)
    assert min(times) < 0.05


def test_missing_files_are_told_in_a_sentence(tmp_path: Path, small_folder: Path) -> None:
    with pytest.raises(UserError, match=r"tiktoken\.model is missing"):
        Tokenizer.load(tmp_path)
    with pytest.raises(UserError, match=r"tiktoken\.model is missing"):
        Tokenizer.load(tmp_path / "nowhere")
    copy(small_folder, tmp_path, "tiktoken.model")
    with pytest.raises(UserError, match=r"tokenizer_config\.json is missing"):
        Tokenizer.load(tmp_path)


def copy(source: Path, target: Path, *names: str) -> None:
    for name in names:
        (target / name).write_bytes((source / name).read_bytes())


MODEL_DAMAGE: dict[str, Callable[[bytes], bytes]] = {
    "empty": lambda data: b"",
    "not a model": lambda data: b"\x89PNG\r\n\x1a\n" + data[:100],
    "a page instead": lambda data: b"<html>404</html>",
    "cut in a line": lambda data: data[: len(data) // 2 + 3] if (len(data) // 2 + 3) else data,
    "few ranks": lambda data: b"IQ== 0\n",
    "a rank missing": lambda data: b"\n".join(data.split(b"\n")[:300] + data.split(b"\n")[301:]),
    "a token twice": lambda data: data.replace(b"\nIg== 1\n", b"\nIQ== 1\n", 1),
    "a byte missing": lambda data: data.replace(b"IQ== 0\n", b"ISEhISEh 0\n", 1),
    "not base64": lambda data: data.replace(b"IQ== 0\n", b"!!== 0\n", 1),
    "not a number": lambda data: data.replace(b"IQ== 0\n", b"IQ== zero\n", 1),
    "a third column": lambda data: data.replace(b"IQ== 0\n", b"IQ== 0 0\n", 1),
}
CONFIG_DAMAGE: dict[str, bytes] = {
    "empty": b"", "not UTF-8": b"\xff\xfe{}", "not JSON": b"{", "a list": b"[]", "no tokens": b"{}",
    "tokens are a list": b'{"added_tokens_decoder": []}', "no content": b'{"added_tokens_decoder": {"1421": {}}}',
    "no number": b'{"added_tokens_decoder": {"x": {"content": "[BOS]"}}}',
    "ids of ordinary tokens": b'{"added_tokens_decoder": {"3": {"content": "[BOS]"}}}',
    "a far id": b'{"added_tokens_decoder": {"1000000000000": {"content": "[BOS]"}}}', "null": b"null",
    "deep": b"[" * 100_000,
}  # fmt: skip


@pytest.mark.parametrize("name", MODEL_DAMAGE)
def test_a_damaged_model_file_is_told_in_a_sentence(small_folder: Path, tmp_path: Path, name: str) -> None:
    copy(small_folder, tmp_path, "tiktoken.model", "tokenizer_config.json")
    data = (tmp_path / "tiktoken.model").read_bytes()
    damaged = MODEL_DAMAGE[name](data)
    assert damaged != data
    (tmp_path / "tiktoken.model").write_bytes(damaged)
    with pytest.raises(UserError, match="cannot be read"):
        Tokenizer.load(tmp_path)


@pytest.mark.parametrize("name", CONFIG_DAMAGE)
def test_a_damaged_config_is_told_in_a_sentence(small_folder: Path, tmp_path: Path, name: str) -> None:
    copy(small_folder, tmp_path, "tiktoken.model")
    (tmp_path / "tokenizer_config.json").write_bytes(CONFIG_DAMAGE[name])
    with pytest.raises(UserError, match="cannot be read"):
        Tokenizer.load(tmp_path)


def test_random_damage_raises_nothing_else(small_folder: Path, tmp_path: Path) -> None:
    copy(small_folder, tmp_path, "tiktoken.model", "tokenizer_config.json")
    rng = random.Random(5)
    refused = 0
    for name in ("tiktoken.model", "tokenizer_config.json"):
        whole = (small_folder / name).read_bytes()
        for _ in range(60):
            data = bytearray(whole)
            for _ in range(rng.randint(1, 3)):
                data[rng.randrange(len(data))] = rng.randrange(256)
            (tmp_path / name).write_bytes(bytes(data[: rng.choice((len(data), rng.randrange(len(data)))) or None]))
            try:
                tok = Tokenizer.load(tmp_path)
                assert tok.decode(tok.encode("Kenya 漢字 12")) == "Kenya 漢字 12"
            except UserError:
                refused += 1
        (tmp_path / name).write_bytes(whole)
    assert refused > 60


def test_a_config_that_lacks_the_markup(small_folder: Path, tmp_path: Path) -> None:
    copy(small_folder, tmp_path, "tiktoken.model", "tokenizer_config.json")
    path = tmp_path / "tokenizer_config.json"
    path.write_text(path.read_text("utf-8").replace("<|tool_call_begin|>", "<|call|>"), "utf-8")
    with pytest.raises(UserError, match=r"names no <\|tool_call_begin\|>"):
        Tokenizer.load(tmp_path)


def test_the_template_is_found_in_the_folder(small_folder: Path, tmp_path: Path) -> None:
    copy(small_folder, tmp_path, "tiktoken.model", "tokenizer_config.json")
    config = json.loads((tmp_path / "tokenizer_config.json").read_text("utf-8"))

    def say(name: str, data: dict | str) -> None:
        (tmp_path / name).write_text(data if isinstance(data, str) else json.dumps(data), "utf-8")

    assert Tokenizer.load(tmp_path).template == "thinking"  # it names <think>
    say("tokenizer_config.json", {**config, "chat_template": "{{ messages }}"})
    assert Tokenizer.load(tmp_path).template == "instruct"
    say("tokenizer_config.json", {**config, "chat_template": [{"name": "default", "template": "x <think></think>"}]})
    assert Tokenizer.load(tmp_path).template == "thinking"
    say("chat_template.jinja", "{{ messages }}")
    assert template_of(tmp_path) == "instruct"
    say("openk2.json", {"template": "thinking"})
    assert template_of(tmp_path) == "thinking"
    assert Tokenizer.load(tmp_path, template="instruct").template == "instruct"
    say("openk2.json", {"template": "chatml"})
    with pytest.raises(UserError, match="chatml"):
        template_of(tmp_path)
    say("openk2.json", {"system": "x"})
    say("chat_template.jinja", "{{ tools_ts_str }} <think>")
    with pytest.raises(UserError, match=r"K2\.5"):
        Tokenizer.load(tmp_path)
    (tmp_path / "chat_template.jinja").unlink()
    named = config["added_tokens_decoder"]
    without = {i: entry for i, entry in named.items() if "think" not in entry["content"]}
    say("tokenizer_config.json", {**config, "added_tokens_decoder": without})
    tok = Tokenizer.load(tmp_path)
    assert (tok.template, tok.special["<think>"]) == ("instruct", tok.n_base + 22)
    stand_in = {str(tok.n_base + 22): {"content": "[extra_id_17]"}, str(tok.n_base + 23): {"content": "[extra_id_18]"}}
    say("tokenizer_config.json", {**config, "added_tokens_decoder": {**without, **stand_in}})
    tok = Tokenizer.load(tmp_path)
    assert (tok.template, tok.special["</think>"]) == ("thinking", tok.n_base + 23)


# An independent tokenizer: Kimi's pattern in another regex engine, merges by hand, Kimi's own loop for cuts.

ALPHABETS = [
    "abcXYZ", "ÄÖäöéèñçßœ", "漢字中文的一是不", "ひらカナー々", "한국어", "абвГДЕ", "مرحبا", "हिन्दी", "ไทย", "αβΓΔ",
    "0123456789", "٠١٢٣½²Ⅷ", " ", "  \t", "\n\r\n", "\u00a0\u3000\u2028\x1c\x85", "!?.,;:-_()[]{}<>|/\\\"'`~@#$%^&*+=",
    "'s", "’t", "'LL", "😀👩‍👩‍👧🇰🇪\ufe0f", "\u0301\u0308", "\x00\x7f", "ǅʰªⁿ", "𝒳𐐷𝟘𠀀", "\ufffd\ue000",
]  # fmt: skip


def by_hand(ranks: dict[bytes, int], split: Callable[[str], list[str]], text: str) -> list[int]:
    ids: list[int] = []
    for piece in split(text):
        parts = [bytes([b]) for b in piece.encode()]
        while piece.encode() not in ranks:
            joined = [ranks.get(a + b, 1 << 40) for a, b in pairwise(parts)]
            lowest = min(joined, default=1 << 40)
            if lowest == 1 << 40:
                break
            at = joined.index(lowest)
            parts[at : at + 2] = [parts[at] + parts[at + 1]]
        else:
            parts = [piece.encode()]
        ids += [ranks[part] for part in parts]
    return ids


def test_ids_are_those_of_an_independent_tokenizer(tok: Tokenizer) -> None:
    regex = pytest.importorskip("regex")
    split = regex.compile(KIMI_PATTERN, regex.V1).findall
    ranks = {tok._bytes[i]: i for i in range(tok.n_base)}
    rng = random.Random(6)
    names = [*tok.special][:24]
    for _ in range(500):
        text = ""
        for _ in range(rng.randint(1, 8)):
            text += "".join(rng.choices(rng.choice(ALPHABETS), k=rng.choice((1, 2, 3, 8, 40))))
            text += rng.choice(["", "", "", rng.choice(names), " the population", "print(x)\n"])
        assert tok.encode(text) == by_hand(ranks, split, text), text


def test_every_character_has_the_ids_of_the_independent_tokenizer(tok: Tokenizer) -> None:
    """A sample of all of Unicode, each character between others; lone surrogates become U+FFFD."""
    regex = pytest.importorskip("regex")
    split = regex.compile(KIMI_PATTERN, regex.V1).findall
    ranks = {tok._bytes[i]: i for i in range(tok.n_base)}
    rng = random.Random(7)
    for code in rng.sample(range(0x11000), 1000):
        char = chr(code)
        if 0xD800 <= code < 0xE000:
            assert tok.encode(f"a{char}b") == tok.encode("a\ufffdb")
        elif unicodedata.category(char) != "Cn":  # tables of later Unicode versions differ in unassigned ones
            text = f"x{char} {char}{char}1"
            assert tok.encode(text) == by_hand(ranks, split, text), hex(code)


def test_long_runs_have_the_ids_of_tiktoken_on_kimis_cuts(tok: Tokenizer) -> None:
    rng = random.Random(8)
    sizes = (MAX_RUN - 1, MAX_RUN, MAX_RUN + 1, 2 * MAX_RUN + 1)
    for unit, more in (("a", ()), (" ", ()), ("漢", ()), ("é!", ()), ("x y", (MAX_CHARS + 3,))):
        for size in (*sizes, *more):
            text = "w " * rng.randrange(3) + (unit * size)[:size] + "end"
            expected = [i for piece in _kimi_cuts(text) for i in tok._encoding.encode(piece, disallowed_special=())]
            assert tok.encode(text) == expected


@pytest.mark.parametrize(
    "unit", ["a" * 24_000 + " ", " " * 24_000 + "a", "漢" * 24_999 + "\n", "The fox. ", "<|im_end|>", "\n"]
)
def test_time_grows_with_the_text(small: Tokenizer, unit: str) -> None:
    def seconds(characters: int) -> float:
        text = (unit * (characters // len(unit) + 1))[:characters]
        start = time.process_time()
        small.encode(text)
        return time.process_time() - start

    few = min(seconds(30_000) for _ in range(3))
    many = min(seconds(480_000) for _ in range(3))  # the least of several: one may hold a garbage collection
    assert many < 80 * few + 0.05  # sixteen times the text; squared would be 256 times the seconds


def test_a_stream_is_the_text(tok: Tokenizer) -> None:
    """Token by token or byte by byte, also through bytes that are no UTF-8; no half character is ever told."""
    rng = random.Random(9)
    for _ in range(300):
        text = "".join(rng.choices("".join(ALPHABETS), k=rng.randrange(30)))
        ids = tok.encode(text)
        if rng.random() < 0.5:
            ids = [i for token in ids for b in tok.decode_bytes([token]) for i in [tok._bytes.index(bytes([b]))]]
        whole = rng.random() < 0.5
        if not whole:
            ids = rng.sample(ids, len(ids)) + rng.choices(range(tok.n_vocab), k=3)
        stream = tok.text_stream()
        told = [stream.feed(token) for token in ids]
        assert "".join(told) + stream.flush() == tok.decode(ids)
        assert not whole or (
            "".join(told) == text and all(part.count("\ufffd") == 0 or "\ufffd" in text for part in told)
        )
        assert stream.flush() == "" and stream.feed(tok.encode("a")[0]) == "a"


def test_vocabulary_that_cannot_be_filled(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="too small"):
        train(["words"], 100, tmp_path)
    with pytest.raises(UserError, match="worth learning"):
        train(["words"], MIN_VOCAB + 1000, tmp_path)
