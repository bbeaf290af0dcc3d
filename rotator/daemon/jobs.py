"""The jobs of the daemon: APScheduler, by the monotonic clock, on threads that run from the start.

APScheduler computes run times by the wall clock. Once that is set back by an hour, no job would run for an hour; once
it is set forward by a year, all the runs of that year would be computed. Here the wall clock is only its notation:
each job's next run is kept by the monotonic clock, and before each look at the jobs it is written down anew.
"""

from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from functools import partial

from apscheduler.executors.base import BaseExecutor, run_job
from apscheduler.job import Job
from apscheduler.schedulers.background import BackgroundScheduler
from apscheduler.triggers.base import BaseTrigger

from rotator.core.ports import Clock, Listener
from rotator.daemon.health import Health
from rotator.runtime.threads import Workers
from rotator.telemetry.logging import unexpected

LONGEST_WAIT = 1.0
"""Seconds until the next look at the jobs, at most: so soon a wall clock that was set meanwhile is noticed."""

NOISE = timedelta(seconds=0.1)
"""By so much may the wall clock leave the monotonic one before the next runs are written down anew."""


class Every(BaseTrigger):  # type: ignore[misc]  # APScheduler has no types, here and below
    """Runs a job each so many seconds, counted from the run before. Runs that were missed count as one."""

    def __init__(self, seconds: float, clock: Clock, *, at_once: bool = False) -> None:
        """`at_once`: the first run is due now."""
        self._seconds, self._clock = seconds, clock
        self.due = clock.monotonic() + (0.0 if at_once else seconds)

    def get_next_fire_time(self, previous_fire_time: datetime | None, now: datetime) -> datetime:
        """Return when the job runs next, by the wall clock. With a previous time it is just about to run."""
        if previous_fire_time is not None:
            self.due = self._clock.monotonic() + self._seconds
        return self.due_at(now)

    def due_at(self, now: datetime) -> datetime:
        """Return when the job runs next, by a wall clock that shows `now`."""
        return now + timedelta(seconds=self.due - self._clock.monotonic())


class Jobs(BackgroundScheduler):  # type: ignore[misc]
    """Runs each job in its turn. One that is under way still is not run beside itself."""

    def __init__(self, clock: Clock, emit: Listener, health: Health) -> None:
        """`start` raises `RotatorError` when the threads cannot be started."""
        self._job_threads = JobThreads()
        super().__init__(
            timezone=UTC,
            executors={"default": self._job_threads},
            job_defaults={"coalesce": True, "max_instances": 1, "misfire_grace_time": None},
        )
        self._clock, self._emit, self._health = clock, emit, health
        self._wanted: set[str] = set()  # run_now was called, and the run has not begun

    def every(self, seconds: float, name: str, work: Callable[[], None], *, at_once: bool = False) -> None:
        """Add a job."""
        self.add_job(self._run, Every(seconds, self._clock, at_once=at_once), (name, work), id=name)

    def change(self, name: str, seconds: float) -> None:
        """Give a job another interval, from now on."""
        self.reschedule_job(name, trigger=Every(seconds, self._clock))

    def run_now(self, name: str) -> None:
        """Have a job run at once, and then in its turn. May be called before the start."""
        self._wanted.add(name)
        if job := self.get_job(name):  # at the end there is none
            job.trigger.due = self._clock.monotonic()
        if self.running:
            self.wakeup()

    def has_run(self, name: str) -> None:
        """Run a job again that was wanted while it ran: APScheduler skips a run beside another."""
        if name in self._wanted:
            self.run_now(name)

    def problems(self) -> Iterator[str]:
        """Yield a problem for each thread that has ended and should not have."""
        if self._thread is not None and not self._thread.is_alive():
            yield "the thread that runs the jobs has ended"
        yield from self._job_threads.problems()

    def _run(self, name: str, work: Callable[[], None]) -> None:
        self._wanted.discard(name)
        try:
            with self._health.doing(name):
                work()
        except Exception as error:
            self._emit(unexpected(f"the job {name}", error))

    def _process_jobs(self) -> float:
        """APScheduler's one step: run what is due, and return how many seconds to wait until the next look."""
        try:
            now = datetime.now(UTC)
            for job in self.get_jobs():
                at = job.trigger.due_at(now)
                if abs(at - job.next_run_time) > NOISE:
                    job.modify(next_run_time=at)
            wait = super()._process_jobs()
        except Exception as error:  # the thread would end, and with it every job
            self._emit(unexpected("running the jobs", error))
            return LONGEST_WAIT
        return LONGEST_WAIT if wait is None else min(wait, LONGEST_WAIT)


class JobThreads(BaseExecutor):  # type: ignore[misc]
    """Runs jobs: each has a thread, for most may wait for an answer or a file, and none is to hold up another.

    APScheduler's own pool starts its threads on demand, and counts a job wrongly when it cannot.
    """

    _workers: Workers | None = None

    def start(self, scheduler: BackgroundScheduler, alias: str) -> None:
        """Start the threads. Raises `RotatorError` when that is not possible."""
        super().start(scheduler, alias)
        self._workers = Workers(len(scheduler.get_jobs()), "job")

    def problems(self) -> Iterator[str]:
        """Yield a problem for each thread that has ended and should not have."""
        if self._workers is not None:
            yield from self._workers.problems()

    def _do_submit_job(self, job: Job, run_times: Sequence[datetime]) -> None:
        if self._workers is not None:  # which `start` comes before
            self._workers.submit(partial(self._run, job, run_times))

    def _run(self, job: Job, run_times: Sequence[datetime]) -> None:
        try:
            events = run_job(job, job._jobstore_alias, run_times, self._logger.name)
        except BaseException as error:
            self._run_job_error(job.id, error, error.__traceback__)
        else:
            self._run_job_success(job.id, events)
        self._scheduler.has_run(job.id)

    def shutdown(self, wait: bool = True) -> None:  # noqa: ARG002 - the base's signature; what runs ends with the program
        """Have the threads end after what they do now."""
        if self._workers is not None:
            self._workers.end()
