"""Measurements that write benchmarks/RESULTS.md: `python -m benchmarks --help` lists them."""

from __future__ import annotations

import argparse
import shlex
import signal
import sys

from benchmarks.drift.calibration import calibrate
from benchmarks.serving import servers
from benchmarks.serving.cpu import profile
from benchmarks.serving.growth import growth
from benchmarks.serving.latency import latency
from benchmarks.serving.overhead import ARGS, overhead
from benchmarks.serving.speed import REFERENCE, speed
from benchmarks.serving.traffic import traffic
from benchmarks.serving.workloads import UNKNOWN, WORKLOADS
from benchmarks.shop.data import KINDS, write_shop
from benchmarks.stages.scoring_backends import scoring

DEFAULT = [
    servers.LIMITS[1],
    REFERENCE,
    "FastAPI + uvicorn x2, batched",
    "mosec x2, batched",
    "rayfunnel",
    "rayfunnel, all in ingress",
    "rayfunnel as shipped",
    "rayfunnel as shipped, all in ingress",
    "stock Ray Serve",
]


def main() -> None:
    """Parses the arguments and measures."""
    # Shells start background jobs with SIGINT ignored; the servers would inherit that, and SIGINT stops them.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--config", default="serve_config.yaml")
    parser.add_argument("--out", default="benchmarks/RESULTS.md")
    commands = parser.add_subparsers(dest="command", required=True)
    workload = argparse.ArgumentParser(add_help=False)
    workload.add_argument("--workload", default="movielens", choices=WORKLOADS)
    closed = commands.add_parser(
        "speed", parents=[workload], help="throughput in closed loop: rayfunnel, its peers and the limit"
    )
    closed.add_argument("--servers", default=";".join(DEFAULT), help="names separated by semicolons")
    closed.add_argument("--clients", default="1,32,128")
    closed.add_argument("--rounds", type=int, default=3)
    closed.add_argument("--seconds", type=float, default=8)
    paced_ = commands.add_parser("open-loop", parents=[workload], help="latency in open loop, at shares of the peak")
    paced_.add_argument("--servers", default="rayfunnel as shipped;rayfunnel as shipped, all in ingress")
    paced_.add_argument("--seconds", type=float, default=20)
    spent = commands.add_parser("cpu", parents=[workload], help="CPU time per process, and per part of the ingress")
    spent.add_argument("--server", default="rayfunnel as shipped")
    spent.add_argument("--clients", type=int, default=128)
    spent.add_argument("--seconds", type=float, default=8)
    growing = commands.add_parser("growth", help="cost of each stage over catalogue, candidates, history and batch")
    growing.add_argument("--items", default="10000,100000,1000000")
    alone = commands.add_parser("scoring", help="the scoring stage alone, on one core")
    alone.add_argument("--batches", default="1,32,64")
    alone.add_argument("--candidates", default="300,500")
    alone.add_argument("--seconds", type=float, default=0.5)
    wares = commands.add_parser("shop", help="quality on generated shop data: the funnel beside tuned baselines")
    wares.add_argument("--users", type=int, default=2000)
    wares.add_argument("--items", type=int, default=5000)
    wares.add_argument("--kinds", default=",".join(KINDS), help="names separated by commas")
    wares.add_argument(
        "--target", default="", help="event type to predict, where the data have it; left out: successes"
    )
    brought = commands.add_parser("shop-data", help="writes generated shop data into a folder, and nothing else")
    brought.add_argument("folder")
    brought.add_argument("--users", type=int, default=2000)
    brought.add_argument("--items", type=int, default=5000)
    brought.add_argument("--kind", default="types", choices=KINDS)
    brought.add_argument("--seed", type=int, default=1)
    days = commands.add_parser("drift", help="false alarms without drift, and the delay until a shift is detected")
    days.add_argument("--data", default="movielens", help="the training data of the artifact")
    days.add_argument("--days", type=float, default=30)
    study = commands.add_parser("autoscaling", help="policies in the simulator, tuned alike, on held-out seeds")
    study.add_argument("--budget", type=int, default=12, help="random configurations per policy and scenario")
    study.add_argument("--only", default="", help="scenarios whose title contains this text")
    bounds = commands.add_parser("overload", help="what each overload mechanism earns, switched within one server")
    bounds.add_argument("--mechanisms", default="", help="left out: all")
    bounds.add_argument("--loads", default="", help="left out: all")
    bounds.add_argument("--pairs", type=int, default=3)
    bounds.add_argument("--seconds", type=float, default=8)
    bounds.add_argument("--peak", type=float, default=0, help="requests/s that count as the peak; 0: measured")
    bounds.add_argument("--inside", action="store_true", help="all stages in the ingress")
    sent = commands.add_parser("traffic", help="normal or shifted traffic for a running application; writes nothing")
    sent.add_argument("--url", default="http://127.0.0.1:8000")
    sent.add_argument("--rate", type=float, default=30, help="requests per second")
    sent.add_argument("--seconds", type=float, default=180)
    sent.add_argument("--new", type=float, default=UNKNOWN, help="share of the requests from unknown users")
    sent.add_argument("--n", type=int, default=10, help="items per answer")
    cost = commands.add_parser("overhead", help="cost of drift monitoring or of logs: with and without, in turns")
    cost.add_argument("--of", choices=ARGS, default="drift")
    cost.add_argument("--pairs", type=int, default=60)
    cost.add_argument("--seconds", type=float, default=4)
    crowd = commands.add_parser(
        "flash", help="a live flash crowd: our policy and Serve's; the scorer's device emulated"
    )
    crowd.add_argument("--rounds", type=int, default=3, help="runs per policy to add to those kept; 0: only writes")
    crowd.add_argument("--fresh", action="store_true", help="forget the runs kept")
    args = parser.parse_args()
    if args.command == "overhead":
        overhead(args.config, args.out, args.pairs, args.seconds, args.of)
        return
    if args.command == "traffic":
        traffic(args.config, args.url, args.rate, args.seconds, args.new, args.n)
        return
    if args.command == "overload":
        from benchmarks.serving.overload import overload

        overload(args.config, args.out, args.mechanisms, args.loads, args.pairs, args.seconds, args.inside, args.peak)
        return
    if args.command == "growth":
        growth(args.out, [int(count) for count in args.items.split(",")])
        return
    if args.command == "cpu":
        profile(args.config, args.workload, args.out, args.server, args.clients, args.seconds)
        return
    if args.command == "scoring":
        batches, counts = ([int(part) for part in text.split(",")] for text in (args.batches, args.candidates))
        scoring(args.config, args.out, batches, counts, args.seconds)
        return
    if args.command == "shop":
        from benchmarks.shop.quality import shop_quality

        kinds = args.kinds.split(",")
        if wrong := [kind for kind in kinds if kind not in KINDS]:
            parser.error(f"no such kind: {wrong[0]!r}; there are: {', '.join(KINDS)}")
        command = f"python -m benchmarks {shlex.join(sys.argv[1:])}"
        shop_quality(args.config, args.out, args.users, args.items, kinds, args.target, command)
        return
    if args.command == "shop-data":
        write_shop(args.folder, args.kind, args.users, args.items, args.seed)
        return
    if args.command == "drift":
        calibrate(args.config, args.out, args.data, args.days)
        return
    if args.command == "autoscaling":
        from benchmarks.autoscaling.study import autoscaling

        autoscaling(args.out, args.budget, args.only, f"python -m benchmarks {shlex.join(sys.argv[1:])}")
        return
    if args.command == "flash":
        from benchmarks.autoscaling.flash import flash

        flash(args.config, args.out, args.rounds, args.fresh, "python -m benchmarks flash")
        return
    names = args.servers.split(";")
    known = {*servers.COMMANDS, *(servers.LIMITS if args.command == "speed" else ())}
    if wrong := [name for name in names if servers.named(name)[0] not in known]:
        parser.error(f"no such server: {wrong[0]!r}; there are: {'; '.join(sorted(known))}")
    if args.command == "speed":
        clients = [int(count) for count in args.clients.split(",")]
        speed(args.config, args.workload, args.out, names, clients, args.rounds, args.seconds)
    else:
        latency(args.config, args.workload, args.out, names, args.seconds)


if __name__ == "__main__":
    main()
