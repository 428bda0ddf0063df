"""The engine: a checkpoint folder run with numpy on a CPU. Token ids in, token ids out; no torch."""

from openk2.engine.session import Engine, Session

__all__ = ["Engine", "Session"]
