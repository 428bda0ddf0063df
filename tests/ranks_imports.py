"""What the processes of tests/ranks.py need, imported before they are forked."""

import torch.distributed.checkpoint
import torch.distributed.fsdp  # noqa: F401

import openk2.optim.muon
import openk2.train.loop
import openk2.train.parallel  # noqa: F401
