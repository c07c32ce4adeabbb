"""Alerts on the application: errors, load, replicas, nodes, resources and the store."""

from __future__ import annotations

from monitoring.alerts.rule import RAY_JOB, READY, SERVING, WANTED, Alert, number, rate
from monitoring.alerts.values import AlertValues, seconds


def alerts(values: AlertValues) -> list[Alert]:
    """All alerts of this file."""
    parts = (_traffic, _queues, _replicas, _nodes, _resources, _store)
    return [alert for part in parts for alert in part(values)]


def _traffic(values: AlertValues) -> list[Alert]:
    traffic, w = values.traffic, values.traffic.window
    everything = rate("rayfunnel_requests_total", w)
    answers = rate(f'rayfunnel_requests_total{{{SERVING},status="200"}}', w)

    def share(name: str, concern: str, part: str, most: float, summary: str, of: str = everything) -> Alert:
        busy = f"on () {of} >= {number(traffic.min_rate)}"
        return Alert(
            name=name,
            expr=f"{part} / on () group_left () {of} > {number(most)} and {busy}",
            for_=traffic.for_,
            severity="ticket",
            concern=concern,
            summary=summary,
            description=f"{{{{ $value | humanizePercentage }}}} in the last {w}; the threshold is {most:.0%}.",
        )

    failed = rate('rayfunnel_requests_total{status=~"5.."}', w)
    degraded = rate("rayfunnel_degraded_total", w, by="stage")
    stage = "{{ $labels.stage }}"
    return [
        share("RayfunnelErrors", "availability", failed, traffic.errors, "Requests are answered with 5xx"),
        share(
            "RayfunnelShedding",
            "load",
            rate("rayfunnel_shed_total", w),
            traffic.shed,
            "Requests are refused: more arrive than an ingress replica takes",
        ),
        share(
            "RayfunnelExpiring",
            "load",
            rate("rayfunnel_expired_total", w),
            traffic.expired,
            "Requests reach their deadline before the last stage",
        ),
        share(
            "RayfunnelDegraded",
            "quality",
            degraded,
            traffic.degraded,
            f"A fallback replaces the stage {stage}",
            of=answers,
        ),
        Alert(
            name="RayfunnelStandIn",
            expr=f"sum by (stage, backend) (increase(rayfunnel_backend_stand_in_total[{w}])) > 0",
            for_=traffic.for_,
            severity="ticket",
            concern="quality",
            summary=f"The stage {stage} runs on the backend {{{{ $labels.backend }}}}, not on the configured one",
            description=f"{{{{ $value | humanize }}}} batches in the last {w}.",
        ),
        Alert(
            name="RayfunnelFastPathOff",
            expr="rayfunnel_fast_path_off > 0",
            for_=traffic.for_,
            severity="ticket",
            concern="quality",
            summary="Ingress replicas run without the HTTP fast path",
            description="{{ $value | humanize }} replicas; requests cost more CPU, and refusals too.",
        ),
    ]


def _queues(values: AlertValues) -> list[Alert]:
    queue, w = values.queue, values.queue.window
    waiting = "sum without (replica) (rayfunnel_queue_depth)"
    step = values.prometheus.interval
    predicted = f"predict_linear(({waiting})[{w}:{step}], {number(seconds(queue.horizon))})"
    return [
        Alert(
            name="RayfunnelQueueGrowing",
            expr=f"{predicted} > {queue.bound} and {waiting} > {queue.floor}",
            for_=queue.for_,
            severity="ticket",
            concern="load",
            summary="The queue grows: requests arrive faster than they are answered",
            description=f"At this rate {{{{ $value | humanize }}}} requests will wait in {queue.horizon}; "
            f"above {queue.bound} requests are refused.",
        ),
        Alert(
            name="RayfunnelStageQueueLong",
            expr=f"min_over_time(rayfunnel_stage_queue_depth[{w}]) > {queue.stage}",
            for_=queue.for_,
            severity="ticket",
            concern="load",
            summary="Requests queue at {{ $labels.deployment }}",
            description=f"At least {{{{ $value | humanize }}}} requests waited there all through the last {w}.",
        ),
    ]


def _replicas(values: AlertValues) -> list[Alert]:
    replicas = values.replicas
    found = [
        Alert(
            name="RayfunnelReplicasNotReady",
            expr=f"{WANTED} != {READY}",
            for_=replicas.for_,
            severity="ticket",
            concern="replicas",
            summary="{{ $labels.deployment }} does not have the wanted number of replicas",
            description=f"{{{{ $value | humanize }}}} are wanted; for {replicas.for_} another number has been ready.",
            labels={"scope": "replica"},
        )
    ]
    if replicas.autoscaled:
        found += [
            Alert(
                name="RayfunnelNoRoom",
                expr="max by (stage) (ray_rayfunnel_autoscaling_room) >= 0",
                for_=replicas.no_room_for,
                severity="ticket",
                concern="replicas",
                summary="{{ $labels.stage }} needs more replicas than the cluster has room for",
                description="There is room for {{ $value | humanize }}.",
                labels={"scope": "replica"},
            ),
            Alert(
                name="RayfunnelPolicySilent",
                expr="absent(ray_rayfunnel_autoscaling_target)",
                for_=values.monitor.for_,
                severity="ticket",
                concern="monitor",
                summary="The autoscaling policy reports no metrics",
                description="Ray's metrics do not contain rayfunnel_autoscaling_target.",
            ),
        ]
    return found


def _nodes(values: AlertValues) -> list[Alert]:
    nodes = values.nodes
    return [
        Alert(
            name="RayfunnelNodeDown",
            expr=f'up{{job="{RAY_JOB}"}} == 0',
            for_=nodes.for_,
            severity="ticket",
            concern="nodes",
            summary="The Ray node {{ $labels.instance }} does not answer",
            description="Its metrics could not be scraped.",
        ),
        Alert(
            name="RayfunnelNodesMissing",
            expr=f"(count(count by (ip) (ray_node_cpu_count)) or vector(0)) < {nodes.expected}",
            for_=nodes.for_,
            severity="ticket",
            concern="nodes",
            summary="The Ray cluster has fewer nodes than it should",
            description=f"{{{{ $value | humanize }}}} of {nodes.expected} nodes report.",
        ),
    ]


def _resources(values: AlertValues) -> list[Alert]:
    resources = values.resources
    memory = "ray_node_mem_used / ray_node_mem_total"
    disk = "ray_node_disk_utilization_percentage / 100"
    gpu = "ray_node_gram_used / (ray_node_gram_used + ray_node_gram_available)"
    node = "the node {{ $labels.ip }}"

    def full(name: str, resource: str, used: str, most: float, severity: str, where: str = node) -> Alert:
        return Alert(
            name=name,
            expr=f"{used} > {number(most)}",
            for_=resources.for_,
            severity=severity,
            concern=resource,
            summary=f"{resource.upper() if len(resource) < 4 else resource.capitalize()} of {where} runs out",
            description=f"{{{{ $value | humanizePercentage }}}} are in use; the threshold is {most:.0%}.",
            labels={"scope": "replica"},
        )

    card = f"GPU {{{{ $labels.GpuIndex }}}} of {node}"
    return [
        full("RayfunnelCpuExhausted", "cpu", "ray_node_cpu_utilization / 100", resources.cpu, "ticket"),
        full("RayfunnelMemoryHigh", "memory", memory, resources.memory.ticket, "ticket"),
        full("RayfunnelMemoryExhausted", "memory", memory, resources.memory.page, "page"),
        full("RayfunnelGpuMemoryExhausted", "gpu memory", gpu, resources.gpu_memory, "ticket", card),
        full("RayfunnelDiskHigh", "disk", disk, resources.disk.ticket, "ticket"),
        full("RayfunnelDiskExhausted", "disk", disk, resources.disk.page, "page"),
        Alert(
            name="RayfunnelEventLoopSlow",
            expr=f"rayfunnel_event_loop_lag_seconds > {number(resources.event_loop_lag_s)}",
            for_=resources.for_,
            severity="ticket",
            concern="event loop",
            summary="The event loop of {{ $labels.deployment }} is blocked",
            description="A replica's tasks start {{ $value | humanizeDuration }} late.",
            labels={"scope": "replica"},
        ),
    ]


def _store(values: AlertValues) -> list[Alert]:
    down = Alert(
        name="RayfunnelStoreDown",
        expr="rayfunnel_store_up == 0",
        for_=values.store.for_,
        severity="page",
        concern="store",
        summary="The store does not answer",
        description="Events are refused with 503, and users are served as if they had no history.",
    )
    return [down]
