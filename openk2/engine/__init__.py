"""The engine: a checkpoint folder run on a CPU, for many at once. Token ids in, token ids out; no torch."""

from openk2.engine.request import Completion, Request
from openk2.engine.sampler import Logprob, Sampling
from openk2.engine.session import Engine, Session
from openk2.engine.stopping import StopTexts
from openk2.engine.thinking import ThinkingLimit

__all__ = ["Completion", "Engine", "Logprob", "Request", "Sampling", "Session", "StopTexts", "ThinkingLimit"]
