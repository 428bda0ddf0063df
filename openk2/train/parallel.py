"""Who takes part in a training run: one process, or one of many; and how a network is spread over them.

Every rank has other parts of a step's batch (data parallel). Parameters, gradients and optimizer state are shards
(FSDP2): a block's weights are gathered when it is reached and dropped again after. The experts of a layer may be
divided among `experts` neighbouring ranks, which then exchange tokens instead of weights; the remaining axis shards
what each of them holds. The same code runs under gloo on CPUs and under NCCL on GPUs.
"""

from __future__ import annotations

import contextlib
import itertools
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from openk2.errors import UserError
from openk2.model.attention import Packing
from openk2.model.expert_parallel import ExpertExchange
from openk2.model.moe import Experts, MoE
from openk2.model.transformer import Transformer
from openk2.optim.distributed import local
from openk2.train.packing import Batch

if TYPE_CHECKING:
    from torch.distributed.device_mesh import DeviceMesh

_CPU = torch.device("cpu")


@dataclass(frozen=True)
class World:
    """This process among `size` that train one network; alone it is rank 0 of 1, and every collective is the identity.

    `experts`: how many ranks share the experts of a layer.
    """

    rank: int = 0
    size: int = 1
    device: torch.device = _CPU
    experts: int = 1
    apart: Any = None  # a second process group, for a thread that writes while the training goes on

    @classmethod
    def single(cls, device: torch.device | str = "cpu") -> World:
        return cls(device=torch.device(device))

    @classmethod
    def from_env(cls, device: torch.device | str = "cpu", experts: int = 1) -> World:
        """The process that torchrun started, or a single one. Raises UserError when `experts` do not fit the ranks."""
        size = int(os.environ.get("WORLD_SIZE", "1"))
        if size % experts:
            raise UserError(f"{size} ranks do not divide into groups of {experts} that share the experts.")
        if size == 1:
            return cls.single(device)
        device = torch.device(device)
        if device.type == "cuda":
            device = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
            torch.cuda.set_device(device)
        if not dist.is_initialized():  # gloo as well: what ranks agree on lies on the CPU
            dist.init_process_group("cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo")
        return cls(dist.get_rank(), size, device, experts, dist.new_group(backend="gloo"))

    @property
    def is_main(self) -> bool:
        """Whether this process speaks and writes for all."""
        return self.rank == 0

    def sum(self, tensor: Tensor) -> Tensor:
        """The sum over all processes, in place."""
        if self.size > 1:
            dist.all_reduce(tensor)
        return tensor

    def max(self, tensor: Tensor) -> Tensor:
        """The largest over all processes, element by element, in place."""
        if self.size > 1:
            dist.all_reduce(tensor, dist.ReduceOp.MAX)
        return tensor

    def barrier(self) -> None:
        """Wait for all."""
        if self.size > 1:
            dist.barrier()

    def share(self, value: Any) -> Any:
        """The main process's value of something plain, for all."""
        values = [value]
        if self.size > 1:
            dist.broadcast_object_list(values)
        return values[0]

    def gather(self, value: Any) -> list[Any]:
        """Every process's value of something plain, by rank."""
        values = [value] * self.size
        if self.size > 1:
            dist.all_gather_object(values, value)
        return values

    def close(self) -> None:
        """Leave the group. Nothing can be exchanged after."""
        if dist.is_initialized():
            dist.destroy_process_group()


def parallelise(model: Transformer, world: World, recompute: int = 0, gather: torch.dtype | None = None) -> None:
    """Put `model`, whole and the same on every rank, onto the ranks' devices in shards.

    recompute: every n-th block is computed again in the backward pass instead of keeping its activations; 0: none.
    gather: the type in which a block's weights are sent (bf16 halves the traffic and rounds the norms' weights); by
    default bf16 on GPUs if the network computes in it, else float32, which gives the losses of one process.
    Gradients are sums over the ranks, in float32: each rank's loss must already be its share of the step's mean.
    Raises UserError when the experts do not divide among the ranks that share them.
    """
    for number, block in enumerate(model.model.layers):
        block.recompute = recompute > 0 and number % recompute == 0  # type: ignore[assignment]
    if world.size == 1:
        model.to(world.device)
        return
    # Imported here: these take as long as torch itself, and one process has no use for them.
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import register_fsdp_forward_method

    if gather is None and world.device.type == "cuda":
        gather = model.dtype
    axes = {"replica": world.size // world.experts, "expert": world.experts}
    mesh = init_device_mesh(world.device.type, tuple(axes.values()), mesh_dim_names=tuple(axes))
    data = mesh._flatten("data")
    blocks = list(model.model.layers)
    for block in blocks:
        if isinstance(block.mlp, MoE):
            _shard_experts(block.mlp.experts, mesh, data, gather)
            if gather is not None:
                _shard(block.mlp.gate, data, None)  # which experts are chosen must not depend on rounding
        _shard(block, data, gather)
    _shard(model, data, None)
    for method in ("loss", "hidden"):
        register_fsdp_forward_method(model, method)
    for block, following in itertools.pairwise(blocks):  # routing waits for the device: weights are asked for before
        block.set_modules_to_forward_prefetch([following])  # type: ignore[operator]
        following.set_modules_to_backward_prefetch([block])  # type: ignore[operator]


def _shard(module: nn.Module, mesh: DeviceMesh, gather: torch.dtype | None) -> None:
    from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard

    policy = MixedPrecisionPolicy(param_dtype=gather, reduce_dtype=torch.float32, cast_forward_inputs=False)
    fully_shard(module, mesh=mesh, mp_policy=policy)
    sharded: Any = module  # its class is another now
    sharded.set_gradient_divide_factor(1.0)
    sharded.set_force_sum_reduction_for_comms(True)


def _shard_experts(experts: Experts, mesh: DeviceMesh, data: DeviceMesh, gather: torch.dtype | None) -> None:
    """Divide the stacks by expert: first among the ranks that exchange tokens, then each part among the others."""
    from torch.distributed.tensor import Shard, distribute_tensor

    if mesh["expert"].size() == 1:
        _shard(experts, data, gather)
        return
    try:
        experts.exchange = ExpertExchange(mesh["expert"].get_group(), len(experts.gate_proj))
    except ValueError as error:
        raise UserError(f"{error}; choose another number of ranks that share the experts.") from None
    for name, stack in list(experts.named_parameters(recurse=False)):
        part = distribute_tensor(stack.detach(), mesh["expert"], [Shard(0)], src_data_rank=None)
        setattr(experts, name, nn.Parameter(part))
    _shard(experts, mesh["replica"], gather)


def gradients(model: Transformer, batches: Sequence[Batch], own: int, world: World) -> tuple[float, float]:
    """Add this rank's share to the gradient of the step's mean loss over `own` tokens; returns its share of the loss,
    and of the balance loss, as `Workers.gradients` does.

    All ranks must give equally many batches, as they exchange weights in each.
    """
    total, balances = torch.zeros(2, device=world.device)
    for batch in batches:
        if not len(batch.rows):  # nothing to learn, but the others exchange weights and tokens with this rank
            with unobserved(model):
                row = torch.ones(1, dtype=torch.long, device=world.device)
                (model.loss(batch.ids[:2], Packing([2], world.device), row) * 0.0).backward()
            continue
        packing = Packing(batch.lengths, world.device)
        weight = len(batch.rows) / own
        loss = model.loss(batch.ids, packing, batch.rows) * weight
        loss.backward()
        total += loss.detach()
        if packing.balance:
            balances += packing.balance.value.detach() * weight
    return float(total - balances), float(balances)


@contextlib.contextmanager
def unobserved(model: Transformer) -> Iterator[None]:
    """Neither loads nor largest logits are counted in what is computed inside."""
    training, tracked = model.training, [a.track_logits for a in model.attentions()]
    model.eval()
    for attention in model.attentions():
        attention.track_logits = False
    try:
        yield
    finally:
        model.train(training)
        for attention, track in zip(model.attentions(), tracked, strict=True):
            attention.track_logits = track


def drop_gathered(model: Transformer) -> None:
    """After a forward pass that none backward follows: the outermost weights are shards again, as elsewhere."""
    if hasattr(model, "reshard"):
        model.reshard()  # type: ignore[operator]


def balance(model: Transformer, speed: float, world: World) -> list[float]:
    """Move the routers' biases by the loads of all ranks; returns each layer's largest load over its mean."""
    layers = list(model.moe_layers())
    none = torch.zeros(model.config.n_routed_experts, dtype=torch.int64, device=world.device)
    if layers:
        loads = torch.stack([none if moe.load is None else moe.load for moe in layers])
        for moe, load in zip(layers, world.sum(loads), strict=True):
            moe.load = load
    return [moe.balance(speed) for moe in layers]


def held(model: Transformer, optimizer: torch.optim.Optimizer) -> dict[str, int]:
    """Bytes of `weights`, `gradients` and `optimizer` that lie on this rank, as `estimate.states` expects them."""
    parameters = list(model.parameters())
    gradients = [p.grad for p in parameters if p.grad is not None]
    state = [t for p in parameters for t in optimizer.state.get(p, {}).values() if isinstance(t, Tensor)]
    kinds = {"weights": parameters, "gradients": gradients, "optimizer": state}
    return {kind: sum(local(t).numel() * t.element_size() for t in tensors) for kind, tensors in kinds.items()}
