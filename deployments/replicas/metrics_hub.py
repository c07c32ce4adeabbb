"""The deployment MetricsHub, and the calls that other replicas make to it."""

from __future__ import annotations

import asyncio
from typing import Any

from ray import serve
from ray.serve.context import _get_global_client
from ray.serve.handle import DeploymentHandle

from deployments.replicas.replica_logs import replica_logs
from deployments.store.base import StoreConfig
from deployments.store.redis import RedisStore
from deployments.telemetry.durable_aggregator import ControllerStatus, DurableAggregator, MetricsConfig
from deployments.telemetry.metrics_reporter import HubCall
from monitoring.logs.setup import LogConfig
from monitoring.metrics.snapshots import ApplicationTotals, ReplicaSnapshot


class MetricsHub:
    """One replica per application; `DurableAggregator` does the work."""

    def __init__(self, config: MetricsConfig, store: StoreConfig, logs: LogConfig) -> None:
        replica_logs(logs)
        context = serve.get_replica_context()
        self._application, self._own = context.app_name, context.deployment
        self._aggregator = DurableAggregator(self._application, RedisStore(store), config, self._controller_status)
        self._task = asyncio.ensure_future(self._aggregator.run())

    async def report(self, snapshot: ReplicaSnapshot) -> bool:
        """See `DurableAggregator.report`."""
        return self._aggregator.report(snapshot)

    async def totals(self) -> ApplicationTotals | None:
        """See `DurableAggregator.totals`."""
        return await self._aggregator.totals()

    async def __del__(self) -> None:
        """Serve calls it before it ends the replica: saves the totals."""
        if hasattr(self, "_task"):
            self._task.cancel()
            await self._aggregator.save()

    async def _controller_status(self) -> ControllerStatus | None:
        details = await asyncio.to_thread(_details)
        application = details["applications"].get(self._application)
        if application is None:
            return None
        deployments = application["deployments"]
        return ControllerStatus(
            # The hub sends no snapshots, so it never counts as ready.
            wanted={name: entry["target_num_replicas"] for name, entry in deployments.items() if name != self._own},
            alive={replica["replica_id"] for entry in deployments.values() for replica in entry["replicas"]},
        )


def hub_call(handle: DeploymentHandle[Any] | None) -> HubCall | None:
    """Calls a method of the hub; None: there is no hub."""
    if handle is None:
        return None

    async def call(method: str, *args: object) -> Any:
        return await getattr(handle, method).remote(*args)

    return call


def _details() -> dict[str, Any]:
    """All applications as in Serve's REST API; the public Python API does not have the target number of replicas."""
    client = _get_global_client()
    assert client is not None, "a replica without Serve"
    details: dict[str, Any] = client.get_serve_details()
    return details
