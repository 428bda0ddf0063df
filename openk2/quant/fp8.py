"""Block-FP8 as DeepSeek-V3 and Kimi K2 Instruct are released: e4m3 bits, one float32 factor a block. No torch.

e4m3fn (arXiv 2209.05433): a sign bit, four of exponent (bias 7), three of mantissa; no infinity; 0x7F and 0xFF are NaN.
"""

from __future__ import annotations

import numpy as np

BLOCK = (128, 128)


def _values() -> np.ndarray:
    byte = np.arange(256)
    exponent, mantissa = byte >> 3 & 15, byte & 7
    value = np.where(exponent == 0, mantissa / 8 * 2.0**-6, (1 + mantissa / 8) * 2.0 ** (exponent - 7.0))
    value[(byte & 127) == 127] = np.nan
    return np.where(byte & 128, -value, value).astype(np.float32)


VALUES = _values()  # float32 [256]: what each byte stands for


def dequantize(bits: np.ndarray, scale: np.ndarray, block: tuple[int, int] = BLOCK, first_row: int = 0) -> np.ndarray:
    """bits uint8 [rows, in] and scale float32 [ceil(out/block), ceil(in/block)] -> float32 [rows, in].

    `rows` may be a part of the matrix, from `first_row` on. One float32 product a value, as DeepSeek's own kernel.
    """
    values = VALUES[bits]
    columns = np.repeat(np.ascontiguousarray(scale, np.float32), block[1], 1)[:, : bits.shape[1]]
    start = 0
    while start < len(bits):
        row = (first_row + start) // block[0]
        end = min((row + 1) * block[0] - first_row, len(bits))
        values[start:end] *= columns[row]
        start = end
    return values
