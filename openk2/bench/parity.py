"""The parity table: every way in which the network is computed here, against another program or another way.

Small networks of random weights in every shape that the family has; each is one checkpoint folder that all sides read.
Where a router chooses experts, two sides that differ in rounding may choose differently, and then nothing agrees: rows
say how many choices differed, `pinned` rows force both sides to the same ones, and texts are drawn so that no choice
hangs on less than `_MARGIN`. A difference is the largest of any value, relative to the largest value of the other side
where that is above 1 (of a gradient: above 1e-3).
"""

from __future__ import annotations

import dataclasses
import importlib.metadata as metadata
import io
import platform
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, redirect_stderr
from ctypes import CDLL
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from openk2.engine import kernels
from openk2.engine.forward import Executor, Forward
from openk2.engine.kernels.build import build
from openk2.engine.kernels.native import Native, declare
from openk2.engine.twin import Twin
from openk2.engine.weights import Weights
from openk2.errors import UserError
from openk2.export import gguf, hf
from openk2.model import checkpoint
from openk2.model.config import ModelConfig
from openk2.model.convert import FORMS, FolderSource, RandomSource, convert
from openk2.model.expected import EXPERT
from openk2.paths import install
from openk2.quant import packing

try:
    import torch
    import torch.nn.functional as F
    import transformers

    from openk2.model.attention import Packing
    from openk2.model.executor import TorchExecutor
    from openk2.model.moe import Experts, Router
    from openk2.model.transformer import Transformer
    from openk2.quant import int4
except ImportError as error:
    raise UserError(
        f"The parity table compares with torch and transformers and {error.name} is missing; install them: "
        f"{install('bench')}"
    ) from None

TOKENS = 150
_OTHERS = ("torch", "transformers", "compressed-tensors", "llama-cpp-python")
_SIZES: dict[str, Any] = {
    "hidden_size": 64, "num_hidden_layers": 3, "num_attention_heads": 4, "intermediate_size": 96,
    "moe_intermediate_size": 32, "n_routed_experts": 8, "num_experts_per_tok": 3, "vocab_size": 128,
    "kv_lora_rank": 32, "qk_nope_head_dim": 32, "qk_rope_head_dim": 16, "v_head_dim": 32,
    "routed_scaling_factor": 1.7, "max_position_embeddings": 256, "initializer_range": 0.12,
    "bos_token_id": 0, "eos_token_id": 1,
}  # fmt: skip
_YARN: dict[str, Any] = {
    "type": "yarn", "factor": 32.0, "original_max_position_embeddings": 64, "beta_fast": 1.0, "beta_slow": 1.0,
    "mscale": 1.0, "mscale_all_dim": 1.0,
}  # fmt: skip
NETWORKS: dict[str, dict[str, Any]] = {
    "no q_lora": {},
    "q_lora": {"q_lora_rank": 32},
    "YaRN 32": {"q_lora_rank": 32, "rope_scaling": _YARN, "max_position_embeddings": 2048},
    "YaRN 64": {
        "q_lora_rank": 32,
        "rope_scaling": {**_YARN, "factor": 64.0},
        "max_position_embeddings": 4096,
    },
    "two dense layers": {"first_k_dense_replace": 2},
    "two shared experts": {"n_shared_experts": 2},
    "2 of 4 groups": {"n_group": 4, "topk_group": 2},
    "tied head": {"tie_word_embeddings": True},
    "all experts": {"q_lora_rank": 32, "num_experts_per_tok": 8},  # nothing to choose: pinned for every program
}
_ALL = "all experts"
_MARGIN = 1e-4  # of a score between 0 and 1

Choices = list[np.ndarray]  # of each layer with a router: the experts of each token [T, K]


@dataclass(frozen=True)
class Row:
    """`difference` None: not compared, and `note` says why. `allowed` None: shown to compare with the row after it.

    `routing`: each side's own choice of experts, pinned, or "" where nothing is routed.
    """

    check: str
    network: str
    difference: float | None
    allowed: float | None
    routing: str = ""
    rerouted: int | None = None  # choices that differed, of `choices`
    choices: int | None = None
    note: str = ""

    @property
    def holds(self) -> bool:
        return self.difference is None or self.allowed is None or self.difference <= self.allowed


def run(
    networks: Sequence[str] = tuple(NETWORKS), progress: Callable[[str], None] = lambda text: None
) -> dict[str, Any]:
    """Compute the table: {"rows": [...], "holds": all of them, "compared_with": versions, "seconds"}.

    A row: check, network, routing, rerouted and choices (or null), difference (null: not compared, see note), allowed,
    holds. Raises UserError for an unknown network.
    """
    if unknown := set(networks) - NETWORKS.keys():
        raise UserError(f"There is no network {', '.join(sorted(unknown))}; there are: {', '.join(NETWORKS)}.")
    start = time.monotonic()
    library, why = _library()
    rows: list[Row] = []
    with tempfile.TemporaryDirectory(prefix="openk2-parity-") as folder, _one_thread():
        for name in networks:
            progress(name)
            with redirect_stderr(io.StringIO()):  # the other programs' progress bars and remarks
                rows += Network(name, Path(folder) / name, library, why).rows()
    return {
        "rows": [dataclasses.asdict(row) | {"holds": row.holds} for row in rows],
        "holds": all(row.holds for row in rows),
        "compared_with": {name: _version(name) for name in _OTHERS},
        "processor": platform.processor() or platform.machine(),
        "seconds": round(time.monotonic() - start, 1),
    }  # fmt: skip


class _Uneven(RandomSource):
    """Random weights with norms and selection biases that matter."""

    def rows(self, name: str, first: int, last: int) -> np.ndarray:
        values = super().rows(name, first, last)
        if values.ndim == 1:
            values = values + self._generator(name, first).standard_normal(len(values)).astype(np.float32) * 0.1
        return values


class Network:
    """One network in the forms it is stored in, and the rows about it."""

    def __init__(self, name: str, folder: Path, library: CDLL | None, why_none: str) -> None:
        self.name, self.folder = name, folder
        self.library, self.why_none = library, why_none
        self.config = ModelConfig(**{**_SIZES, **NETWORKS[name]})
        convert(_Uneven(self.config, 3), folder / "fp32", "fp32")
        for form in FORMS:
            if form != "fp32":
                convert(FolderSource(folder / "fp32"), folder / form, form)
        drawn = (np.random.default_rng(seed).integers(0, self.config.vocab_size, TOKENS).tolist() for seed in range(99))
        self.ids: list[int] = next(ids for ids in drawn if self._steady(ids))

    def rows(self) -> list[Row]:
        return [*self._torch(), *self._engine(), *self._int4(), *self._exports(), *self._llama()]

    def _steady(self, ids: list[int]) -> bool:
        """Whether no choice of experts hangs on less than the margin, in each form."""
        rng = np.random.default_rng(1)
        changed = 0

        class Shaken(Twin):
            def _choose(self, biased: np.ndarray) -> np.ndarray:
                nonlocal changed
                choice = super()._choose(biased)
                for _ in range(8):
                    noise = _MARGIN * rng.choice(np.array([-1, 1], np.float32), biased.shape)
                    changed += _differed(super()._choose(biased + noise), choice)
                return choice

        for form in FORMS:
            self._run(form, Shaken, ids=ids)
        return not changed

    def row(self, check: str, difference: float | None, allowed: float | None, **more: Any) -> Row:
        return Row(check, self.name, difference, allowed, **more)

    # --- torch, for training ----------------------------------------------------------------------------------------

    def _torch(self) -> Iterator[Row]:
        ours, theirs = self._transformer("fp32"), _transformers(self.folder / "fp32")
        batch = torch.tensor(self.ids)
        with _keeping(ours) as made, _keeping(theirs) as choices:
            worst = _difference(ours(batch, Packing([TOKENS])), theirs(batch[None]).logits[0])
        yield self.row("logits: torch, transformers", worst, 1e-5, **_rerouted(made, choices))
        with _pinned(ours, choices), _pinned(theirs, choices):
            pinned = _difference(ours(batch, Packing([TOKENS])), theirs(batch[None]).logits[0])
        yield self.row("logits: torch, transformers", pinned, 1e-5, routing="pinned")
        ours.loss(batch, Packing([TOKENS]), torch.arange(1, TOKENS)).backward()
        F.cross_entropy(theirs(batch[None]).logits[0, :-1], batch[1:]).backward()
        mine, other = _gradients(ours), _gradients(theirs)
        if mine.keys() != other.keys():
            raise AssertionError(f"gradients of different parameters: {mine.keys() ^ other.keys()}")
        worst = max(_difference(mine[name], other[name], least=1e-3) for name in other)
        yield self.row("gradients: torch, transformers", worst, 1e-4, routing="own")
        lengths = [70, 1, TOKENS - 71]
        with torch.no_grad():
            packed = ours(batch, Packing(lengths)).split(lengths)
            alone = [ours(part, Packing([len(part)])) for part in batch.split(lengths)]
        worst = max(_difference(a, b) for a, b in zip(packed, alone, strict=True))
        yield self.row("logits: packed, separate texts", worst, 1e-5, routing="own")
        rough = self._transformer("fp32", torch.bfloat16)
        with torch.no_grad():
            with _keeping(ours) as choices, _keeping(rough) as made:
                exact = ours(batch, Packing([TOKENS]))
                worst = _difference(rough(batch, Packing([TOKENS])), exact)
            yield self.row("logits: torch in bf16, in fp32", worst, None, **_rerouted(made, choices))
            with _pinned(rough, choices):
                worst = _difference(rough(batch, Packing([TOKENS])), exact)
            yield self.row("logits: torch in bf16, in fp32", worst, 0.05, routing="pinned")

    # --- the engine, for serving ------------------------------------------------------------------------------------

    def _engine(self) -> Iterator[Row]:
        reference = self._transformer("fp32")
        batch = torch.tensor(self.ids)
        with torch.no_grad(), _keeping(reference) as choices:
            expanded = reference(batch, Packing([TOKENS]))
        served = self._run(
            "fp32", lambda config, weights: TorchExecutor.load(self.folder / "fp32", dtype=torch.float32)
        )
        yield self.row("logits: torch absorbed, expanded", _difference(served, expanded), 1e-5, routing="own")
        twins = [ChoosingTwin(pinned) for pinned in (None, choices)]
        own, pinned = (self._run("fp32", twin) for twin in twins)
        yield self.row("logits: numpy, torch", _difference(own, expanded), 1e-4, **_rerouted(twins[0].made, choices))
        yield self.row("logits: numpy, torch", _difference(pinned, expanded), 1e-4, routing="pinned")
        single = self._run("fp32", Twin, pieces=[1] * TOKENS)
        yield self.row("logits: numpy absorbed, expanded", _difference(single, own), 1e-5, routing="own")
        for form in FORMS:
            yield self._kernels(form)
        yield self._kernels("int4", fp32=True)

    def _kernels(self, form: str, fp32: bool = False) -> Row:
        """`fp32`: INT4 weights meet fp32 activations, in place of 16-bit ones."""
        check, routing = f"logits: kernels {form}{' exact' * fp32}, torch", "pinned" if self.name == _ALL else "own"
        if (library := self.library) is None:
            return self.row(check, None, 1e-4, note=self.why_none)
        model = self._transformer(form)
        with torch.no_grad():
            expected = model(torch.tensor(self.ids), Packing([TOKENS]))
        native: Callable[..., Executor] = lambda config, weights: Native(library, config, weights, fp32=fp32)  # noqa: E731
        pieces = [TOKENS - 20, *[1] * 20]  # a prompt, then token by token
        return self.row(check, _difference(self._run(form, native, pieces), expected), 1e-4, routing=routing)

    def _run(
        self, form: str, executor: Callable[..., Any], pieces: Sequence[int] = (TOKENS,), ids: list[int] | None = None
    ) -> np.ndarray:
        """Logits [T, vocabulary] of the ids, appended in pieces."""
        ids = ids or self.ids
        weights = Weights.load(self.folder / form, self.config)
        forward = Forward(self.config, weights, executor(self.config, weights))
        cache, found, start = forward.cache(), [], 0
        for size in pieces:
            found.append(forward.logits(forward.run(ids[start : start + size], cache)))
            start += size
        return np.concatenate(found)

    # --- INT4 -------------------------------------------------------------------------------------------------------

    def _int4(self) -> Iterator[Row]:
        """The function of training, its numpy twin, and what is read back from the folder: one and the same."""
        plain, stored = (checkpoint.load(self.folder / form) for form in ("fp32", "int4"))
        trained, twin = 0.0, 0.0
        for name in filter(EXPERT.search, plain):
            weight = np.array(plain.weight(name))
            values = int4.fake_quantize(torch.from_numpy(weight))
            trained = max(trained, _difference(stored.weight(name), values))
            q, scale = int4.quantize(torch.from_numpy(weight))
            other_q, other_scale = packing.quantize(weight)
            twin = max(twin, _difference(other_q, q), _difference(other_scale, scale.float()))
        yield self.row("INT4 values: read back, in training", trained, 0)
        yield self.row("INT4 integers and scales: numpy, torch", twin, 0)

    # --- what other programs load -----------------------------------------------------------------------------------

    def _exports(self) -> Iterator[Row]:
        for form in ("bf16", "int4"):
            check = f"transformers' load of {form}, ours"
            if form == "int4" and not _version("compressed-tensors"):
                why = "compressed-tensors is not installed: pip install compressed-tensors"
                yield self.row(f"weights: {check}", None, 0, note=why)
                continue
            out, batch = self.folder / f"hf-{form}", torch.tensor(self.ids)
            hf.export(self.folder / form, out, None, shard_bytes=1 << 18, progress=lambda done, total: None)
            theirs, ours = _transformers(out), self._transformer(form)
            mine, other = _parameters(ours), _parameters(theirs)
            yield self.row(f"weights: {check}", max(_difference(other[name], mine[name]) for name in mine), 0)
            with torch.no_grad(), _keeping(ours) as choices, _keeping(theirs) as made:
                worst = _difference(theirs(batch[None]).logits[0], ours(batch, Packing([TOKENS])))
            yield self.row(f"logits: {check}", worst, 1e-5, **_rerouted(made, choices))

    def _llama(self) -> Iterator[Row]:
        kinds = [("fp32", "f32", "f32", 2e-4)]
        if self.name == _ALL:  # rounded activations may choose other experts where there is a choice
            kinds += [("bf16", "bf16", "bf16", 0.05), ("int4", "q4_0", "bf16", 0.05)]
        for form, experts, dense, allowed in kinds:
            check = f"logits: llama.cpp {experts}, numpy"
            if not _version("llama-cpp-python"):
                yield self.row(check, None, allowed, note="llama.cpp is not installed: pip install llama-cpp-python")
                continue
            path = self.folder / f"{experts}.gguf"
            gguf.export(self.folder / form, path, experts, dense)
            fast = (self.config.rope_scaling or {}).get("beta_fast", 32.0)
            got = llama_logits(path, self.ids, yarn_beta_fast=fast)
            routing = "pinned" if self.name == _ALL else "own"
            note = "" if experts == "f32" else "llama.cpp rounds activations"
            yield self.row(check, _difference(got, self._run(form, Twin)), allowed, routing=routing, note=note)

    def _transformer(self, form: str, dtype: torch.dtype = torch.float32) -> Transformer:
        stored = checkpoint.load(self.folder / form, self.config)
        model = Transformer(self.config, dtype)
        names = {name.removesuffix("_packed") for name in stored if not name.endswith(("_scale", "_shape"))}
        model.load_tensors({name: torch.from_numpy(np.array(stored.weight(name))) for name in names})
        return model.eval()


class ChoosingTwin:
    """Makes a numpy twin whose choices of experts are kept in `made`, and forced when `pinned` is given."""

    def __init__(self, pinned: Choices | None) -> None:
        self.made: Choices = []
        self._pinned = pinned

    def __call__(self, config: ModelConfig, weights: Weights) -> Twin:
        made, pinned = self.made, self._pinned

        class Choosing(Twin):
            def _choose(self, biased: np.ndarray) -> np.ndarray:
                made.append(super()._choose(biased) if pinned is None else pinned[len(made)])
                return made[-1]

        return Choosing(config, weights)


def llama_logits(path: Path, ids: Sequence[int], **settings: Any) -> np.ndarray:
    """[T, vocabulary] of llama.cpp, with a cache of f32 in place of its f16."""
    import llama_cpp  # type: ignore[import-not-found]

    model = llama_cpp.Llama(
        str(path), n_ctx=len(ids), n_batch=len(ids), n_ubatch=len(ids), logits_all=True, n_threads=1,
        n_threads_batch=1, type_k=llama_cpp.GGML_TYPE_F32, type_v=llama_cpp.GGML_TYPE_F32, verbose=False, **settings,
    )  # fmt: skip
    try:
        model.eval(list(ids))
        return np.array(model.scores[: len(ids)])
    finally:
        model.close()


def _transformers(folder: Path) -> Any:
    """What transformers loads from a folder, computing in float32 with eager attention."""
    load = transformers.AutoModelForCausalLM.from_pretrained
    model = load(folder, dtype=torch.float32, attn_implementation="eager")
    return torch.nn.Module.float(model).eval()  # INT4 comes as bf16, which holds it exactly


def _routers(model: torch.nn.Module) -> list[torch.nn.Module]:
    return [m for m in model.modules() if isinstance(m, Router) or type(m).__name__ == "DeepseekV3TopkRouter"]


@contextmanager
def _keeping(model: torch.nn.Module) -> Iterator[Choices]:
    """Keeps the experts that the model's routers choose meanwhile."""
    made: Choices = []

    def keep(module: torch.nn.Module, _: Any, output: Any) -> None:
        made.append((output[0] if isinstance(module, Router) else output[2]).numpy())

    hooks = [router.register_forward_hook(keep) for router in _routers(model)]
    try:
        yield made
    finally:
        for hook in hooks:
            hook.remove()


@contextmanager
def _pinned(model: Any, choices: Choices) -> Iterator[None]:
    """The model's routers choose these experts; weights from their own scores, as noaux_tc computes them."""
    config = model.config

    def force(index: torch.Tensor) -> Callable[..., Any]:
        def hook(module: Any, args: tuple[torch.Tensor, ...], output: Any) -> Any:
            x = args[0].reshape(-1, module.weight.shape[1]).float()
            weights = F.linear(x, module.weight.float()).sigmoid().gather(1, index)
            if config.norm_topk_prob:
                weights = weights / (weights.sum(1, keepdim=True) + 1e-20)
            weights = weights * config.routed_scaling_factor
            return (index, weights) if isinstance(module, Router) else (output[0], weights, index)

        return hook

    routers = zip(_routers(model), choices, strict=True)
    hooks = [router.register_forward_hook(force(torch.from_numpy(index))) for router, index in routers]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def _differed(a: np.ndarray, b: np.ndarray) -> int:
    """Tokens whose experts [T, K] are not the same set."""
    return int((np.sort(a, 1) != np.sort(b, 1)).any(1).sum())


def _rerouted(made: Choices, other: Choices) -> dict[str, Any]:
    differed = sum(_differed(a, b) for a, b in zip(made, other, strict=True))
    return {"routing": "own", "rerouted": differed, "choices": sum(map(len, made))}


def _parameters(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    """Under transformers' names, in which a layer's routed experts are two stacks."""
    return _stacked(model, {**dict(model.named_parameters()), **dict(model.named_buffers())})


def _gradients(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    found = {name: parameter.grad for name, parameter in model.named_parameters() if parameter.grad is not None}
    return _stacked(model, found)


def _stacked(model: torch.nn.Module, tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    for name, module in model.named_modules():
        if isinstance(module, Experts):
            gate, up = tensors.pop(f"{name}.gate_proj"), tensors.pop(f"{name}.up_proj")
            tensors[f"{name}.gate_up_proj"] = torch.cat((gate, up), 1)
    return tensors


def _difference(a: Any, b: Any, least: float = 1.0) -> float:
    """max |a - b| / max(least, max |b|); infinite when one of them is NaN."""
    a, b = (np.asarray(x.detach() if isinstance(x, torch.Tensor) else x, np.float64) for x in (a, b))
    if a.shape != b.shape:
        raise AssertionError(f"shapes {a.shape} and {b.shape}")
    found = float(np.abs(a - b).max() / max(least, np.abs(b).max()))
    return found if np.isfinite(found) else float("inf")


def _library() -> tuple[CDLL | None, str]:
    """The kernels, built if need be, or why there are none."""
    if (library := kernels.library()) is not None:
        return library, ""
    try:
        return declare(CDLL(str(build()))), ""
    except UserError as error:
        return None, str(error)


@contextmanager
def _one_thread() -> Iterator[None]:
    """Small products are faster in one thread."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


HEADER = ("what", "networks", "routing", "largest difference", "allowed", "holds")


def table(rows: Iterable[dict[str, Any]]) -> list[list[str]]:
    """Rows under HEADER: one for each check and routing, over all networks, with the network of the largest."""
    groups: dict[str, dict[str, list[dict[str, Any]]]] = {}
    for row in rows:
        groups.setdefault(row["check"], {}).setdefault(row["routing"], []).append(row)
    return [[check, *_cells(routing, group)] for check, found in groups.items() for routing, group in found.items()]


def _cells(routing: str, group: list[dict[str, Any]]) -> list[str]:
    compared = [row for row in group if row["difference"] is not None]
    counted = [row for row in compared if row["rerouted"] is not None]
    if counted:
        rerouted, choices = (sum(row[key] for row in counted) for key in ("rerouted", "choices"))
        routing += f", {rerouted:,} of {choices:,} differ"
    if not compared:
        return [_named(group), routing, "-", "-", group[0]["note"]]
    worst = max(compared, key=lambda row: row["difference"])
    size = f"{worst['difference']:.1e}" if worst["difference"] else "0"
    if worst["difference"] and len(compared) > 1:
        size += f" ({worst['network']})"
    allowed = "-" if worst["allowed"] is None else f"{worst['allowed']:.0e}" if worst["allowed"] else "0"
    failed = [row for row in compared if not row["holds"]]
    holds = f"NO: {_named(failed)}" if failed else "-" if worst["allowed"] is None else "yes"
    return [_named(compared), routing, size, allowed, holds]


def _named(rows: list[dict[str, Any]]) -> str:
    names = dict.fromkeys(row["network"] for row in rows)
    return f"{len(names)} of {len(NETWORKS)}" if len(names) > 2 else ", ".join(names)
