"""Measurements that write benchmarks/RESULTS.md: `python -m benchmarks speed | open-loop | autoscaling`."""

from __future__ import annotations

import argparse
import shlex
import sys

from benchmarks import servers
from benchmarks.speed import REFERENCE, paced, speed

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
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--config", default="serve_config.yaml")
    parser.add_argument("--out", default="benchmarks/RESULTS.md")
    commands = parser.add_subparsers(dest="command", required=True)
    closed = commands.add_parser("speed", help="closed loop: rayfunnel, its peers and the limit")
    closed.add_argument("--servers", default=";".join(DEFAULT), help="names separated by semicolons")
    closed.add_argument("--clients", default="1,32,128")
    closed.add_argument("--rounds", type=int, default=3)
    closed.add_argument("--seconds", type=float, default=8)
    paced_ = commands.add_parser("open-loop", help="Poisson arrivals at shares of the peak")
    paced_.add_argument("--server", default="rayfunnel as shipped")
    paced_.add_argument("--peak", type=float, default=0, help="requests/s; 0: measured first")
    paced_.add_argument("--seconds", type=float, default=20)
    study = commands.add_parser("autoscaling", help="policies in the simulator, tuned alike, on held-out seeds")
    study.add_argument("--budget", type=int, default=12, help="random configurations per policy and scenario")
    study.add_argument("--only", default="", help="scenarios whose title holds this")
    args = parser.parse_args()
    if args.command == "autoscaling":
        from benchmarks.autoscaling import autoscaling

        autoscaling(args.out, args.budget, args.only, f"python -m benchmarks {shlex.join(sys.argv[1:])}")
        return
    if args.command == "speed":
        names = args.servers.split(";")
        known = {*servers.COMMANDS, *servers.LIMITS}
        if wrong := [name for name in names if name not in known]:
            parser.error(f"no such server: {wrong[0]!r}; there are: {'; '.join(sorted(known))}")
        clients = [int(count) for count in args.clients.split(",")]
        speed(args.config, args.out, names, clients, args.rounds, args.seconds)
    else:
        paced(args.config, args.out, args.server, args.peak, args.seconds)


if __name__ == "__main__":
    main()
