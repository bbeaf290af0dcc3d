"""The jobs of the daemon: APScheduler, on threads that run from the start."""

from collections.abc import Sequence
from datetime import datetime
from functools import partial

from apscheduler.executors.base import BaseExecutor, run_job
from apscheduler.job import Job

from rotator.threads import Workers


class JobThreads(BaseExecutor):  # type: ignore[misc]
    """Runs jobs. APScheduler's own pool starts its threads on demand, and counts a job wrongly when it cannot."""

    def __init__(self, threads: int) -> None:
        """Raises `RotatorError` when the threads cannot be started."""
        super().__init__()
        self._threads = Workers(threads, "job")

    def _do_submit_job(self, job: Job, run_times: Sequence[datetime]) -> None:
        self._threads.submit(partial(self._run, job, run_times))

    def _run(self, job: Job, run_times: Sequence[datetime]) -> None:
        try:
            events = run_job(job, job._jobstore_alias, run_times, self._logger.name)
        except BaseException as error:
            self._run_job_error(job.id, error, error.__traceback__)
        else:
            self._run_job_success(job.id, events)

    def shutdown(self, wait: bool = True) -> None:  # noqa: ARG002 - APScheduler's signature; what runs ends with the program
        """Have the threads end after what they do now."""
        self._threads.end()
