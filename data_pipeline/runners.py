"""Who writes the shards of a corpus: this process, several, or Apache Beam? The rows are the same.

A shard's bytes depend on its job alone (`writing.write`), so a runner only hands out jobs. What it
makes of them is checked by `writing.PackedCorpus`: a job that was lost left no count.
"""

import importlib.util
import multiprocessing
import multiprocessing.connection
import os
import threading
from collections.abc import Iterable
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from typing import ClassVar

from data_pipeline.errors import UserError
from data_pipeline.writing import Job, write

LOCAL_BEAM = "FnApiRunner"  # DirectRunner would first fetch another runner from the web


@dataclass(frozen=True)
class Processes:
    """Several processes of this machine, each of which writes a part of every split.

    They end when this one does, however it ends.
    """

    parts: int

    def __call__(self, jobs: Iterable[Job]) -> None:
        """Does the jobs; what one of them raises is raised here."""
        # A process that was forked would share the threads of libraries, which it does not have.
        context = multiprocessing.get_context("spawn")
        pool = ProcessPoolExecutor(self.parts, context, initializer=_end_with_parent)
        try:
            for done in [pool.submit(write, job) for job in jobs]:
                done.result()
        except BrokenProcessPool:
            raise RuntimeError(
                "a process that writes shards was killed; if that was for want of memory, use less "
                "of them"
            ) from None
        finally:
            pool.shutdown(cancel_futures=True)


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None

    def wait() -> None:
        multiprocessing.connection.wait([parent.sentinel])
        os._exit(1)

    threading.Thread(target=wait, daemon=True).start()


@dataclass(frozen=True)
class Beam:
    """Apache Beam: one element a shard. `options` are those of a pipeline, --name=value each.

    The runner's workers must see the sources and the folder under the same paths, and have this
    package. Raises UserError where apache_beam is missing, and for the mode that loses elements.
    """

    options: tuple[str, ...] = ()
    parts: ClassVar[int] = 1 << 30

    def __post_init__(self) -> None:
        if importlib.util.find_spec("apache_beam") is None:
            raise UserError(
                "Apache Beam is not installed; it has an environment of its own, from "
                "requirements-beam.txt"
            )
        if "--direct_running_mode=multi_threading" in self.options:
            raise UserError(
                "Beam's direct_running_mode multi_threading loses elements without a word; use "
                "in_memory or multi_processing"
            )

    def __call__(self, jobs: Iterable[Job]) -> None:
        """Does the jobs; RuntimeError from Beam if one fails."""
        import apache_beam as beam
        from apache_beam.options.pipeline_options import PipelineOptions

        given = list(self.options)
        if not any(option.startswith("--runner=") for option in given):
            given.append(f"--runner={LOCAL_BEAM}")
        with beam.Pipeline(options=PipelineOptions(given)) as pipeline:
            _ = pipeline | beam.Create(list(jobs)) | beam.Reshuffle() | beam.Map(write)
