"""What is put away when the conversation comes near the end of the model's window, one rung after the other.

1. Long outputs are never shown whole (`entries.spilled`).
2. Hide the outputs of tools; thinking and calls stay. Rarely and many at once: between two such moments the beginning
   of the conversation is the same byte for byte, so that caches of prefixes hold. K2 Thinking was measured like this.
3. The model writes notes, which replace all but the last steps.
4. Begin again from the goal, the plan, the notes and the list of what was found.

No rung loses anything: the log has it all, and every output opens by its handle.
"""

from __future__ import annotations

from openk2.agent import context
from openk2.agent.events import ContextCut
from openk2.agent.state import State

FULL = 0.8  # of the window: then something is put away
WORTH = 0.25  # of the window: what hiding has to save, or the next rung is due
KEEP = 3  # last steps that notes leave as they are

NOTES = """\
The conversation nears the end of what you can read at once; what is above will be put away. Write your notes now, for \
yourself, and nothing else: what was asked, what is settled and by which output (name its handle or its [id:line]), \
figures and names exactly as they were, what failed, what is open, and the next step."""


def due(state: State, window: int | None) -> bool:
    return window is not None and context.tokens(state) >= FULL * window


def next_rung(state: State, window: int | None, *, forced: bool = False) -> ContextCut | None:
    """The cut that comes next; "notes" is without its text, which the model has yet to write. None: nothing is left.

    `forced`: the model refused the conversation as too long, so that the estimate was wrong or a single step too big.
    """
    last = state.replies[-1].seq if state.replies else 0
    chars = context.chars(state)
    saved = context.hideable(state, _before_last(state))
    worth = WORTH * chars if window is None else WORTH * window * chars / max(1, context.tokens(state))
    if saved >= min(worth, chars / 2) or (forced and saved > chars / 8):
        return ContextCut(kind="hide", upto=_before_last(state))
    since = next((cut for cut in reversed(state.cuts) if cut.kind != "hide"), None)
    begin = since.upto if since else 0
    steps = [reply.seq for reply in state.replies if reply.purpose == "step" and reply.seq > begin]
    if since is not None and since.kind == "fresh":
        if len(steps) <= 1:
            return None  # begun again, and the first step is too long already
        if not state.habits.steer and since.seq > state.turn:
            return None  # without notes the question would only be begun again and again
    if len(steps) > KEEP and not forced and state.habits.steer:
        return ContextCut(kind="notes", upto=steps[-KEEP] - 1)
    return ContextCut(kind="fresh", upto=state.seq) if last else None


def _before_last(state: State) -> int:
    """The last event before the last reply: what that reply's own calls gave stays in sight."""
    return state.replies[-1].seq - 1 if state.replies else 0
