"""Interleaved timing: every contender once a round, in a new random order each round, on the CPU or a CUDA device."""

from __future__ import annotations

import contextlib
import gc
import random
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Protocol

import torch

SAMPLE_SECONDS = 1e-3
MOST_CALLS = 10_000
FLUSH_BYTES = 256 * 2**20

Call = Callable[[int], object]
"""One call of a contender; the argument counts the calls, to choose among rotating inputs."""


class Clock(Protocol):
    """Seconds that ``calls`` successive calls take together, each call numbered from ``first``."""

    def __call__(self, call: Call, first: int, calls: int) -> float: ...


class CpuClock:
    """Wall-clock seconds."""

    def __call__(self, call: Call, first: int, calls: int) -> float:
        begin = time.perf_counter_ns()
        for index in range(first, first + calls):
            call(index)
        return (time.perf_counter_ns() - begin) * 1e-9


class CudaClock:
    """Seconds between two events on the current stream, the L2 cache flushed before the first.

    The calls are queued while the flush runs, so a sample of launches that overlap is the device's time, and one that
    is bound by its launches is the host's.
    """

    def __init__(self) -> None:
        self._flush = torch.empty(FLUSH_BYTES, dtype=torch.int8, device="cuda")

    def __call__(self, call: Call, first: int, calls: int) -> float:
        begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        torch.cuda.synchronize()
        self._flush.zero_()
        begin.record()
        for index in range(first, first + calls):
            call(index)
        end.record()
        end.synchronize()
        return begin.elapsed_time(end) * 1e-3


def settle_allocator() -> None:
    """Frees a large block once: a time then depends less on the rows before it.

    Until it has freed a block as large, glibc hands freed tensors of some megabytes back to the system, and the next
    ones pay a fault a page: PyTorch eager took up to four times as long in the first rows of a process. A user's
    process has freed larger ones.
    """
    torch.empty(31 * 2**20, dtype=torch.uint8).zero_()  # glibc's threshold follows up to 32 MB


def clock_for(device: str | torch.device) -> Clock:
    """The clock of a device."""
    return CudaClock() if torch.device(device).type == "cuda" else CpuClock()


def graphed(call: Call, copies: int) -> Call:
    """``call`` as CUDA graphs, one for each of the ``copies`` of the inputs that it rotates through."""
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for index in range(3):  # libraries allocate and choose algorithms on the first calls
            call(index)
    torch.cuda.current_stream().wait_stream(side)
    graphs = [torch.cuda.CUDAGraph() for _ in range(copies)]
    for index, graph in enumerate(graphs):
        with torch.cuda.graph(graph):
            call(index)
    return lambda index: graphs[index % copies].replay()


def captured(name: str, call: Call, copies: int = 1) -> Call:
    """``call``, :func:`graphed` where the name of a contender asks for it."""
    return graphed(call, copies) if name.endswith("_graph") else call


@dataclass
class Contender:
    """One way to compute the same thing, or the reason why it is not measured."""

    name: str
    call: Call | None = None
    skipped: str | None = None
    rounds: int | None = None  # fewer rounds than the others, for one that takes seconds a call
    warm: bool = False  # has run at this size already
    prepare: Callable[[], None] | None = None  # runs before each sample, outside the clock


@dataclass
class Series:
    """The raw rounds of a contender: ``seconds[i]`` a call in round ``rounds[i]``, each a mean over ``calls`` calls."""

    calls: int
    rounds: list[int] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)


@contextlib.contextmanager
def no_garbage_collection() -> Iterator[None]:
    """No collection in the block but those asked for, which look only at what the block has made."""
    enabled = gc.isenabled()
    gc.collect()
    gc.freeze()
    gc.disable()
    try:
        yield
    finally:
        gc.unfreeze()
        if enabled:
            gc.enable()


def warm_up(one: Contender, clock: Clock, sample_seconds: float = SAMPLE_SECONDS) -> tuple[float, int]:
    """(seconds a call, calls a sample) after warming up, so that one sample lasts at least ``sample_seconds``."""
    assert one.call is not None
    call = one.call
    if one.prepare is not None:
        one.prepare()
    if not one.warm:
        clock(call, 0, 1)  # compiles, loads, allocates
    calls = 1
    while True:
        seconds = clock(call, 0, calls)
        if seconds >= sample_seconds or calls >= MOST_CALLS:
            return seconds / calls, calls
        calls = min(MOST_CALLS, max(calls + 1, int(calls * 1.2 * sample_seconds / max(seconds, 1e-7)), 2 * calls))


def interleave(
    contenders: list[Contender], calls: dict[str, int], rounds: int, clock: Clock, seed: int = 0
) -> dict[str, Series]:
    """Time every contender in ``rounds`` rounds, in random order within each; ``calls[name]`` calls make a sample.

    A contender with fewer rounds of its own takes part in rounds evenly spread over the run.
    """
    order = random.Random(seed)
    series = {one.name: Series(calls[one.name]) for one in contenders}
    with no_garbage_collection():
        for index in range(rounds):
            present = [one for one in contenders if takes_part(index, rounds, one.rounds)]
            order.shuffle(present)
            for one in present:
                assert one.call is not None
                if one.prepare is not None:
                    one.prepare()
                entry = series[one.name]
                seconds = clock(one.call, index * entry.calls, entry.calls) / entry.calls
                entry.rounds.append(index)
                entry.seconds.append(seconds)
                gc.collect()  # cycles may hold gigabytes: a library's samples were seen to keep 0.25 GB a call
    return series


def takes_part(index: int, rounds: int, own: int | None) -> bool:
    """Whether a contender with ``own`` of ``rounds`` rounds runs in round ``index``: exactly ``own`` indices do."""
    if own is None or own >= rounds:
        return True
    return (index + 1) * own // rounds > index * own // rounds


def common_rounds(one: Series, other: Series) -> tuple[list[float], list[float]]:
    """The seconds of both series in the rounds where both ran."""
    mine, theirs = dict(zip(one.rounds, one.seconds, strict=True)), dict(zip(other.rounds, other.seconds, strict=True))
    shared = sorted(mine.keys() & theirs.keys())
    return [mine[index] for index in shared], [theirs[index] for index in shared]
