"""Figures of jobs for Prometheus, read from the store when they are asked for."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from gsync.errors import Invalid
from gsync.jobs.run import OpenStore
from gsync.sync.jobrecord import DONE, RUNNING, load_all


def job_registry(open_store: OpenStore) -> Any:
    """Return a registry that knows how each job fared, whoever ran it.

    Raises:
        Invalid: the client library of Prometheus is not installed.
    """
    try:
        from prometheus_client import CollectorRegistry, ProcessCollector
        from prometheus_client.core import GaugeMetricFamily
    except ImportError as error:
        raise Invalid(
            "metrics need the package prometheus-client",
            hint="install it: pip install 'gsync[metrics]'",
        ) from error

    class Jobs:
        def collect(self) -> Iterator[Any]:
            with open_store() as store:
                states = load_all(store)
            failures = GaugeMetricFamily(
                "gsync_job_failures", "Of the newest runs, how many have failed.", labels=["job"]
            )
            last = GaugeMetricFamily(
                "gsync_job_last_run_seconds", "When the newest run began.", labels=["job"]
            )
            success = GaugeMetricFamily(
                "gsync_job_last_success_seconds", "When the last began that went well.",
                labels=["job"],
            )  # fmt: skip
            took = GaugeMetricFamily(
                "gsync_job_last_duration_seconds", "How long the newest took.", labels=["job"]
            )
            for name, state in sorted(states.items()):
                failures.add_metric([name], state.failures)
                for run in [run for run in state.runs if run.outcome != RUNNING][:1]:
                    last.add_metric([name], run.began_us / 1e6)
                    took.add_metric([name], run.seconds)
                for run in [run for run in state.runs if run.outcome == DONE][:1]:
                    success.add_metric([name], run.began_us / 1e6)
            yield from (failures, last, success, took)

    registry = CollectorRegistry()
    ProcessCollector(registry=registry)
    registry.register(Jobs())
    return registry
