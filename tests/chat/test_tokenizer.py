from __future__ import annotations

import json
import random
import time
from base64 import b64decode
from pathlib import Path

import pytest

from openk2.chat.tokenizer import MAX_CHARS, MAX_RUN, PATTERN, SPECIAL_OFFSETS, Tokenizer, split_giant
from openk2.chat.train_tokenizer import MIN_VOCAB, train
from openk2.errors import UserError


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


def test_kimi_ids(kimi_folder: Path) -> None:
    tok = Tokenizer.load(kimi_folder)
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


def test_missing_and_damaged_files_are_told_in_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"tiktoken\.model is missing"):
        Tokenizer.load(tmp_path)
    (tmp_path / "tiktoken.model").write_text("IQ== 0\n")
    (tmp_path / "tokenizer_config.json").write_text("{}")
    with pytest.raises(UserError, match="cannot be read"):
        Tokenizer.load(tmp_path)


def test_vocabulary_that_cannot_be_filled(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="too small"):
        train(["words"], 100, tmp_path)
    with pytest.raises(UserError, match="worth learning"):
        train(["words"], MIN_VOCAB + 1000, tmp_path)
