"""What is held out before anything is generated: a fifth of the countries, a fifth of the wordings, MAWPS fold 0.

Membership is a hash of the thing itself, so it never depends on order, seed or code version.
"""

from __future__ import annotations

import hashlib

MAWPS_FOLD = 0


def held_out(kind: str, text: str, share: int = 5) -> bool:
    """True for one in `share` of all texts of this kind."""
    return int.from_bytes(hashlib.sha256(f"openk2/{kind}/{text}".encode()).digest()[:4], "big") % share == 0
