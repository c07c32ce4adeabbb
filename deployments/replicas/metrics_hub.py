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
from deployments.telemetry.hub_keeper import Fleet, HubKeeper, MetricsConfig
from deployments.telemetry.metrics_reporter import Call
from monitoring.logs.ecs import LogConfig
from monitoring.metrics.snapshots import Snapshot, Totals


class MetricsHub:
    """One replica per application; see `HubKeeper`."""

    def __init__(self, config: MetricsConfig, store: StoreConfig, logs: LogConfig) -> None:
        replica_logs(logs)
        context = serve.get_replica_context()
        self._application, self._own = context.app_name, context.deployment
        self._keeper = HubKeeper(self._application, RedisStore(store), config, self._ask)
        self._task = asyncio.ensure_future(self._keeper.run())

    async def report(self, snapshot: Snapshot) -> bool:
        """Adds a replica's snapshot; False: another hub has taken over."""
        return self._keeper.report(snapshot)

    async def totals(self) -> Totals | None:
        """The totals of the application; None: another hub has taken over."""
        return await self._keeper.totals()

    async def __del__(self) -> None:
        """Serve calls it before it ends the replica: saves the totals."""
        if hasattr(self, "_task"):
            self._task.cancel()
            await self._keeper.save()

    async def _ask(self) -> Fleet | None:
        details = await asyncio.to_thread(_details)
        application = details["applications"].get(self._application)
        if application is None:
            return None
        deployments = application["deployments"]
        return Fleet(
            # The hub itself sends no snapshot, so it is not counted as ready either.
            wanted={name: shown["target_num_replicas"] for name, shown in deployments.items() if name != self._own},
            alive={replica["replica_id"] for shown in deployments.values() for replica in shown["replicas"]},
        )


def hub_call(handle: DeploymentHandle[Any] | None) -> Call | None:
    """A function that calls a method of the hub; None: there is no hub."""
    if handle is None:
        return None

    async def call(method: str, *args: object) -> Any:
        return await getattr(handle, method).remote(*args)

    return call


def _details() -> dict[str, Any]:
    """All applications as Serve's REST API shows them; its public Python API lacks the target number of replicas."""
    client = _get_global_client()
    assert client is not None, "a replica without Serve"
    details: dict[str, Any] = client.get_serve_details()
    return details
