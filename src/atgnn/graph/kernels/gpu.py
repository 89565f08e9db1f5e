# mypy: allow-untyped-defs
"""The graph operator on NVIDIA GPUs, in Triton. Nothing of size N x M is ever written.

Four kernels:

- `_measure`: the norm of every candidate;
- `_nearest`: scores of a tile of nodes against all candidates stay on chip, each in a 64-bit key
  with the candidate's index below it; ranks are read off as the smallest key above the last;
- `_extremum`: largest or smallest value among the neighbours found;
- `_scatter`: the gradient of that, to the nearest neighbour that attains it.

Import this module for CUDA tensors alone: it needs triton, which comes with CUDA builds of torch.
float64 belongs to the plain path. Made for compute capability 8.0 and newer. Without a GPU it runs
in triton's interpreter, for tests, if ``TRITON_INTERPRET=1`` is set before the import.

B batch, N query nodes, M candidate nodes, K neighbours, C channels, F frequency, T time.
"""

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from atgnn.graph.neighbours import shrink

__all__ = ["backward", "forward"]

TILE_N = 16  # nodes to a program: the rows of a matrix instruction
WIDEST = 512  # candidates held on chip at once
MEASURED = 16  # candidates to a program of `_measure`
GATHERED = 1024  # values to a program of `_extremum` and `_scatter`
SEPARABLE, TABLE = tl.constexpr(1), tl.constexpr(2)  # kinds of position


# ---------------------------------------------------------------------------------- the operator


def forward(
    query: Tensor,
    candidates: Tensor,
    by_frequency: Tensor | None,
    by_time: Tensor | None,
    table: Tensor | None,
    lengths: Tensor | None,
    columns: int,
    k: int,
    dilation: int,
    largest: bool,
    cosine: bool,
) -> tuple[Tensor, Tensor]:
    """See `atgnn.graph.operator.knn_extremum`; float32, bfloat16 or float16.

    Products are accumulated in float32 whatever the dtype, and never in TF32. Nothing waits for
    the host and no shape depends on data, so a CUDA graph can record this, once a first call of
    the same sizes has compiled the kernels.
    """
    query, candidates = query.contiguous(), candidates.contiguous()
    with _on(candidates):
        neighbours = _find(
            query, candidates, by_frequency, by_time, table, lengths, columns, k, dilation, cosine
        )
        extremum = candidates.new_empty(query.shape)
        grid, sizes = _gather_tiles(extremum)
        _extremum[grid](
            candidates,
            neighbours,
            extremum,
            *_sizes(query, candidates),
            LARGEST=largest,
            K=neighbours.shape[2],
            **sizes,
        )
    return extremum, neighbours


def backward(grad: Tensor, candidates: Tensor, neighbours: Tensor, largest: bool) -> Tensor:
    """Gradient of the candidates: each channel's goes to the nearest neighbour that won.

    Added up in float32 by atomic operations, in whatever order. Where torch is to be deterministic
    (`torch.use_deterministic_algorithms`) they add 64-bit integers instead, fixed-point numbers of
    60 bits less those of N, relative to the largest gradient: the same sum every time.
    """
    grad, candidates = grad.contiguous(), candidates.contiguous()
    fixed = torch.are_deterministic_algorithms_enabled() and grad.numel() > 0
    peak = _power_of_two(grad) if fixed else grad
    units = 2.0**60 / triton.next_power_of_2(grad.shape[1])  # so that no sum can overflow
    sums = torch.zeros_like(candidates, dtype=torch.int64 if fixed else torch.float32)
    grid, sizes = _gather_tiles(grad)
    with _on(candidates):
        _scatter[grid](
            grad,
            candidates,
            neighbours.contiguous(),
            peak,
            units,
            sums,
            *_sizes(grad, candidates),
            LARGEST=largest,
            FIXED=fixed,
            K=neighbours.shape[2],
            **sizes,
        )
    if fixed:
        sums = sums.float() * (peak / units)
    return sums.to(candidates.dtype)


def _power_of_two(grad: Tensor) -> Tensor:
    """The one at or below the largest absolute value, from its bits; inf where that is not finite.

    Dividing by it is exact, so fixed point rounds no sum that float32 would not have rounded.
    """
    peak = torch.linalg.vector_norm(grad, torch.inf, dtype=torch.float32).clamp_min(1e-30)
    return (peak.view(torch.int32) & 0x7F800000).view(torch.float32)


def _find(
    query: Tensor,
    candidates: Tensor,
    by_frequency: Tensor | None,
    by_time: Tensor | None,
    table: Tensor | None,
    lengths: Tensor | None,
    columns: int,
    k: int,
    dilation: int,
    cosine: bool,
) -> Tensor:
    """The neighbours alone: (B, N, K) int32."""
    if query.dtype != candidates.dtype:
        query, candidates = query.float(), candidates.float()
    nodes, count, channels = _sizes(query, candidates)
    width, step = shrink(k, dilation, count)
    scale, offset = _measured(candidates, cosine)
    neighbours = query.new_empty(query.shape[0], nodes, width, dtype=torch.int32)
    position, time = 0, 1
    if by_time is not None:
        position, (time, columns) = SEPARABLE.value, by_time.shape
    elif table is not None:
        position = TABLE.value
    optional = [
        offset if value is None else value.contiguous()  # any pointer will do where it is not read
        for value in (by_frequency, by_time, table, lengths)
    ]
    _nearest[(query.shape[0] * triton.cdiv(nodes, TILE_N),)](
        query,
        candidates,
        scale,
        offset,
        *optional,
        neighbours,
        nodes,
        count,
        channels,
        time,
        columns,
        nodes * count if table is not None and table.dim() == 3 else 0,
        dilation,
        k,
        K=width,
        COSINE=cosine,
        POSITION=position,
        RAGGED=lengths is not None,
        WIDEN=query.dtype == torch.bfloat16 and _interpreted(),
        **_nearest_tiles(count, (width - 1) * step + 1, query.dtype),
    )
    return neighbours


def _measured(candidates: Tensor, cosine: bool) -> tuple[Tensor, Tensor]:
    """Factor that normalises each candidate, and its squared norm after that: (B, M) each."""
    scale = candidates.new_empty(candidates.shape[:2], dtype=torch.float32)
    offset = torch.empty_like(scale)
    rows, channels = scale.numel(), candidates.shape[2]
    _measure[(triton.cdiv(rows, MEASURED),)](
        candidates, scale, offset, rows, channels, COSINE=cosine, ROWS=MEASURED, CHUNK=64
    )
    return scale, offset


def _nearest_tiles(count: int, ranks: int, dtype: torch.dtype) -> dict[str, Any]:
    """Sizes for `_nearest`, for M candidates and so many ranks: fixed rules, no autotuning.

    At 512 candidates and 8 warps a thread holds 32 keys. 128 registers to a thread then let two
    programs share a multiprocessor, spill next to nothing and nothing in the inner loops; float32
    goes without the matrix units and needs more. Shared memory stays under 68 KB.
    """
    tile = min(WIDEST, max(16, triton.next_power_of_2(count)))
    slots = triton.next_power_of_2(ranks)
    crowded = tile >= 512 and slots <= 64 and dtype != torch.float32
    return {
        "SINGLE": count <= tile,
        "TILE_N": TILE_N,
        "TILE_M": tile,
        "CHUNK": 16,
        "SLOTS": slots,
        "num_warps": {512: 8, 256: 4, 128: 4, 64: 2}.get(tile, 1),
        "num_stages": 3,
        "maxnreg": 128 if crowded else None,
    }


def _gather_tiles(x: Tensor) -> tuple[tuple[int], dict[str, int]]:
    """Grid and sizes for `_extremum` and `_scatter` over (B, N, C).

    Channels in the widest chunks that leave a fifth idle at most.
    """
    batch, nodes, channels = x.shape
    fits = (c for c in (128, 64, 32) if triton.cdiv(channels, c) * c * 4 <= channels * 5)
    chunk = next(fits, 16)
    rows = GATHERED // chunk
    grid = batch * triton.cdiv(nodes, rows) * triton.cdiv(channels, chunk)
    return (grid,), {"ROWS": rows, "CHUNK": chunk}


def _sizes(query: Tensor, candidates: Tensor) -> tuple[int, int, int]:
    return query.shape[1], candidates.shape[1], query.shape[2]


def _interpreted() -> bool:
    """Whether this is triton's interpreter, which multiplies the bits of bfloat16 as integers."""
    return not isinstance(_products, triton.runtime.JITFunction)


def _on(like: Tensor) -> AbstractContextManager[object]:
    """Triton launches on the current device, which need not be the tensors'."""
    return torch.cuda.device(like.device) if like.is_cuda else nullcontext()


# ----------------------------------------------------------------------------------- neighbours


@triton.jit(do_not_specialize=["rows"])
def _measure(
    candidates,  # (rows, C)
    scale,  # (rows,) out: one over the norm, or 1
    offset,  # (rows,) out: squared norm of the scaled candidate
    rows,
    channels,
    COSINE: tl.constexpr,
    ROWS: tl.constexpr,
    CHUNK: tl.constexpr,
):
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    inside = row < rows
    squares = tl.zeros([ROWS, CHUNK], tl.float32)
    for start in range(0, channels, CHUNK):
        channel = start + tl.arange(0, CHUNK)
        read = inside[:, None] & (channel < channels)[None, :]
        y = tl.load(candidates + row[:, None] * channels + channel[None, :], read, 0.0)
        squares += y.to(tl.float32) * y.to(tl.float32)
    norm2 = tl.sum(squares, axis=1)
    factor = tl.full([ROWS], 1.0, tl.float32)
    if COSINE:
        factor = 1.0 / tl.maximum(tl.sqrt(norm2), 1e-12)
    tl.store(scale + row, factor, inside)
    tl.store(offset + row, norm2 * factor * factor, inside)


@triton.jit(
    do_not_specialize=["nodes", "count", "time", "columns", "table_stride", "dilation", "k"]
)
def _nearest(
    query,  # (B, N, C)
    candidates,  # (B, M, C)
    scale,  # (B, M)
    offset,  # (B, M)
    by_frequency,  # (F, F')
    by_time,  # (T, T')
    table,  # (N, M) or (B, N, M)
    lengths,  # (B,)
    neighbours,  # (B, N, K) out
    nodes,
    count,  # M
    channels,
    time,  # T: node i = f T + t
    columns,  # T': candidate j = f' T' + t'
    table_stride,  # from one clip's table to the next
    dilation,
    k,  # as asked for: the dilation of a short clip depends on it
    K: tl.constexpr,
    COSINE: tl.constexpr,
    POSITION: tl.constexpr,
    RAGGED: tl.constexpr,
    WIDEN: tl.constexpr,
    SINGLE: tl.constexpr,  # all candidates fit into one tile
    TILE_N: tl.constexpr,
    TILE_M: tl.constexpr,
    CHUNK: tl.constexpr,
    SLOTS: tl.constexpr,  # a power of two, no less than the ranks needed
):
    tiles = tl.cdiv(nodes, TILE_N)
    clip = (tl.program_id(0) // tiles).to(tl.int64)
    node = tl.program_id(0) % tiles * TILE_N + tl.arange(0, TILE_N)
    i = tl.minimum(node, nodes - 1)  # what is outside reads what is at the edge
    slot = tl.arange(0, SLOTS)
    length, valid = columns, count
    if RAGGED:
        length = tl.minimum(tl.maximum(tl.load(lengths + clip), 1), columns).to(tl.int32)
        valid = count // columns * length + tl.minimum(count % columns, length)
    step = tl.minimum(dilation, tl.maximum(valid // k, 1))
    ranks = tl.minimum((K - 1) * step + 1, valid)

    held = tl.full([TILE_N, SLOTS], 0xFFFFFFFFFFFFFFFF, tl.uint64)  # the nearest so far, in order
    for start in range(0, count, TILE_M):
        index = start + tl.arange(0, TILE_M)
        j = tl.minimum(index, count - 1)
        score = tl.zeros([TILE_N, 1], tl.float32) + tl.load(offset + clip * count + j)[None, :]
        if POSITION == SEPARABLE or RAGGED:
            row, column = _split(j, columns)
        if POSITION == SEPARABLE:
            f, t = _split(i, time)
            cells = count // columns
            score += tl.load(by_frequency + (f * cells)[:, None] + row[None, :])
            score += tl.load(by_time + (t * columns)[:, None] + column[None, :])
        if POSITION == TABLE:
            first = table + clip * table_stride + i.to(tl.int64) * count
            score += tl.load(first[:, None] + j[None, :])
        x_row = query + (clip * nodes + i) * channels
        y_row = candidates + (clip * count + j) * channels
        dots = _products(x_row, y_row, channels, COSINE, WIDEN, TILE_N, TILE_M, CHUNK)
        score -= dots * (2.0 * tl.load(scale + clip * count + j))[None, :]
        real = index < count
        if RAGGED:
            real = real & (column < length)
        held = _smallest(_keys(score, index, real), held, ranks, SINGLE)

    nearest = tl.min(held, axis=1)
    chosen = tl.where((slot < ranks)[None, :], held, nearest[:, None])
    wanted = (slot % step == 0) & (slot // step < K)
    tl.store(
        neighbours + ((clip * nodes + node) * K)[:, None] + (slot // step)[None, :],
        chosen.to(tl.uint32).to(tl.int32, bitcast=True),
        (node < nodes)[:, None] & wanted[None, :],
    )


@triton.jit
def _split(index, columns):
    """Row and column on a grid. By floating point, put right: integer division is slow."""
    row = (index.to(tl.float32) * (1.0 / columns)).to(tl.int32)
    column = index - row * columns
    row += (column >= columns).to(tl.int32) - (column < 0).to(tl.int32)
    return row, index - row * columns


@triton.jit
def _products(
    x_row,  # (TILE_N,) pointers
    y_row,  # (TILE_M,) pointers
    channels,
    COSINE: tl.constexpr,
    WIDEN: tl.constexpr,
    TILE_N: tl.constexpr,
    TILE_M: tl.constexpr,
    CHUNK: tl.constexpr,
):
    """x_i . y_j over all channels, x_i normalised if COSINE: (TILE_N, TILE_M) in float32.

    Half-precision values are multiplied as they are, which float32 does exactly, and scaled
    afterwards: rounding the normalised values to half would change neighbours, as TF32 would.
    """
    dots = tl.zeros([TILE_N, TILE_M], tl.float32)
    squares = tl.zeros([TILE_N, CHUNK], tl.float32)
    for start in range(0, channels, CHUNK):
        channel = start + tl.arange(0, CHUNK)
        inside = channel < channels
        x = tl.load(x_row[:, None] + channel[None, :], inside[None, :], 0.0)
        y = tl.load(y_row[None, :] + channel[:, None], inside[:, None], 0.0)
        if WIDEN:
            x, y = x.to(tl.float32), y.to(tl.float32)
        dots = tl.dot(x, y, dots, input_precision="ieee")
        if COSINE:
            squares += x.to(tl.float32) * x.to(tl.float32)
    if COSINE:
        factor = 1.0 / tl.maximum(tl.sqrt(tl.sum(squares, axis=1)), 1e-12)
        dots = dots * factor[:, None]
    return dots


@triton.jit
def _keys(score, index, real):
    """Unsigned 64-bit keys that sort by (score, index); the largest stands for no candidate.

    Floats sort like integers once negative ones have all bits flipped and the others the sign.
    """
    score += 0.0  # -0.0 becomes 0.0
    sign = (score.to(tl.int32, bitcast=True) >> 31).to(tl.uint32, bitcast=True)
    ordered = score.to(tl.uint32, bitcast=True) ^ (sign | 0x80000000)
    keys = (ordered.to(tl.uint64) << 32) | index.to(tl.uint64)[None, :]
    return tl.where(real[None, :], keys, 0xFFFFFFFFFFFFFFFF)


@triton.jit
def _smallest(keys, held, ranks, SINGLE: tl.constexpr):
    """The smallest `ranks` of each row's keys and of those held, in order: shape of `held`.

    The next key is the one at the least distance above the last. Unsigned, what lies below wraps
    around to the far end: one minimum a rank, and nothing has to be struck out. A tile short of
    candidates begins again at its first; repeats are passed over with the next tile.
    """
    slot = tl.arange(0, held.shape[1])
    above = tl.zeros([held.shape[0]], tl.uint64)
    out = tl.full(held.shape, 0xFFFFFFFFFFFFFFFF, tl.uint64)
    for rank in range(ranks):
        gap = tl.min(keys - above[:, None], axis=1)
        if not SINGLE:
            gap = tl.minimum(gap, tl.min(held - above[:, None], axis=1))
        above += gap
        out = tl.where((slot == rank)[None, :], above[:, None], out)
        above += 1
    return out


# ------------------------------------------------------------------------------------- extremum


@triton.jit(do_not_specialize=["nodes", "count"])
def _extremum(
    candidates,  # (B, M, C)
    neighbours,  # (B, N, K)
    extremum,  # (B, N, C) out
    nodes,
    count,
    channels,
    LARGEST: tl.constexpr,
    K: tl.constexpr,
    ROWS: tl.constexpr,
    CHUNK: tl.constexpr,
):
    clip, node, channel = _place(nodes, channels, ROWS, CHUNK)
    row = clip * nodes + node
    inside = (node < nodes)[:, None] & (channel < channels)[None, :]
    first = candidates + clip * count * channels
    near = neighbours + tl.minimum(row, clip * nodes + nodes - 1) * K
    best, _ = _winners(first, near, channel, channels, inside, LARGEST, K)
    tl.store(extremum + row[:, None] * channels + channel[None, :], best, inside)


@triton.jit(do_not_specialize=["nodes", "count"])
def _scatter(
    grad,  # (B, N, C)
    candidates,  # (B, M, C)
    neighbours,  # (B, N, K)
    peak,  # () power of two near the largest absolute gradient, if FIXED
    units,  # of fixed point in one peak, if FIXED
    sums,  # (B, M, C) out, zeros: float32, or int64 if FIXED
    nodes,
    count,
    channels,
    LARGEST: tl.constexpr,
    FIXED: tl.constexpr,
    K: tl.constexpr,
    ROWS: tl.constexpr,
    CHUNK: tl.constexpr,
):
    clip, node, channel = _place(nodes, channels, ROWS, CHUNK)
    row = clip * nodes + node
    inside = (node < nodes)[:, None] & (channel < channels)[None, :]
    first = candidates + clip * count * channels
    near = neighbours + tl.minimum(row, clip * nodes + nodes - 1) * K
    _, winner = _winners(first, near, channel, channels, inside, LARGEST, K)
    value = tl.load(grad + row[:, None] * channels + channel[None, :], inside, 0.0).to(tl.float32)
    if FIXED:  # integers add up to the same sum in any order
        value = (value / tl.load(peak) * units).to(tl.int64)
    target = sums + (clip * count + winner) * channels + channel[None, :]
    tl.atomic_add(target, value, inside, sem="relaxed")


@triton.jit
def _place(nodes, channels, ROWS: tl.constexpr, CHUNK: tl.constexpr):
    """This program's clip, its nodes and its channels."""
    across, tiles = tl.cdiv(channels, CHUNK), tl.cdiv(nodes, ROWS)
    part = tl.program_id(0)
    channel = part % across * CHUNK + tl.arange(0, CHUNK)
    node = part // across % tiles * ROWS + tl.arange(0, ROWS)
    return (part // across // tiles).to(tl.int64), node, channel


@triton.jit
def _winners(
    first,  # the clip's first candidate
    near,  # (ROWS,) pointers to each node's nearest neighbour
    channel,  # (CHUNK,)
    channels,
    inside,  # (ROWS, CHUNK)
    LARGEST: tl.constexpr,
    K: tl.constexpr,
):
    """Extremum over each node's neighbours per channel, and the nearest that attains it."""
    winner = tl.load(near)[:, None] + tl.zeros_like(channel)[None, :]
    best = tl.load(first + winner.to(tl.int64) * channels + channel[None, :], inside, 0.0)
    for start in range(1, K, 8):
        for further in tl.static_range(8):  # eight loads under way at once
            rank = tl.minimum(start + further, K - 1)
            index = tl.load(near + rank)[:, None]
            value = tl.load(first + index.to(tl.int64) * channels + channel[None, :], inside, 0.0)
            if LARGEST:
                better = value.to(tl.float32) > best.to(tl.float32)
            else:
                better = value.to(tl.float32) < best.to(tl.float32)
            better = better | ((value != value) & (best == best))  # the first NaN wins, as in torch
            best = tl.where(better, value, best)
            winner = tl.where(better, index, winner)
    return best, winner
