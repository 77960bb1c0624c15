"""How is an endless input scored in bounded memory? A part at a time, two of them in flight.

Where parts begin and end follows from the records alone. So a run that was stopped goes on at the
beginning of a part, and ends with the same bits as one that was never stopped.
"""

import hashlib
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

from data_pipeline.errors import UserError
from data_pipeline.reading import SeenIds
from data_pipeline.spooling import Spooled, pieces
from dnallm_jax.scoring.output import Part

Answer = TypeVar("Answer")

# Bases of a part, about: small at first, so that the first rows come soon, then twice as much each
# time. A record is never cut.
FIRST, LARGEST = 1 << 16, 1 << 20
_RECORD = 64  # what a record counts for beside its bases, so that empty ones fill a part, too
_IN_FLIGHT = 2


def cut(records: Iterable[Spooled]) -> Iterator[Part]:
    """The records in parts. Memory: a part, and 12 to 24 bytes for each record seen (`SeenIds`)."""
    seen = SeenIds()
    digest = hashlib.blake2b(digest_size=16)
    number, room = 0, FIRST
    part: list[Spooled] = []
    repeated: list[bool] = []
    for record in records:
        part.append(record)
        repeated.append(not seen.add(record.id))
        digest.update(f"{record.id} {record.description}\n{len(record.bases)}\n".encode())
        for piece in pieces(record.bases):
            digest.update(piece)
        room -= _RECORD + len(record.bases)
        if room <= 0:
            yield Part(number, part, repeated, digest.hexdigest())
            number, part, repeated = number + 1, [], []
            room = min(FIRST << min(number, 60), LARGEST)
    if part:
        yield Part(number, part, repeated, digest.hexdigest())


def worked(work: Callable[[Part], Answer], parts: Iterable[Part]) -> Iterator[tuple[Part, Answer]]:
    """Each part with what the work on it gives, in order, two of them at a time.

    So while one is computed, the next is read and tokenised. What was read before a fault in the
    input is worked on before the fault is raised.
    """
    waiting: deque[tuple[Part, Future[Answer]]] = deque()
    fault: UserError | None = None
    with ThreadPoolExecutor(_IN_FLIGHT, thread_name_prefix="score") as pool:
        try:
            for part in parts:
                waiting.append((part, pool.submit(work, part)))
                while len(waiting) > _IN_FLIGHT or (waiting and waiting[0][1].done()):
                    done, future = waiting.popleft()
                    yield done, future.result()
        except UserError as error:
            fault = error
        while waiting:
            done, future = waiting.popleft()
            yield done, future.result()
    if fault:
        raise fault
