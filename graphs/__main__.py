"""The command line: `python -m graphs --help` lists what it does."""

from __future__ import annotations

import argparse
import sys

from deployments.errors import FunnelError


def main() -> int:
    """Parses the arguments and runs the command; errors of the user's are one line and exit status 1."""
    args = _parser().parse_args()
    try:
        return _run(args)
    except FunnelError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1


def _run(args: argparse.Namespace) -> int:
    # Each command imports its own flow: serving never loads training, nor the other way round.
    match args.command:
        case "train":
            from graphs.config_file import load, recommender_args
            from graphs.training import train

            train(args.data, args.out, recommender_args(load(args.config)), args.seed)
        case "evaluate":
            from graphs.commands.evaluate import evaluate_artifact
            from graphs.config_file import load, recommender_args

            command = f"python -m graphs {' '.join(sys.argv[1:])}"
            evaluate_artifact(args.artifact, args.data, recommender_args(load(args.config)), args.out, command)
        case "package":
            from graphs.commands.package import repackage
            from graphs.config_file import load, recommender_args

            config = recommender_args(load(args.config))
            asked = config.stages.scoring.config
            backend, precision = args.backend or asked.backend, args.precision or asked.precision
            made = repackage(args.artifact, args.data, config, backend, precision)
            print(f"{args.artifact}: model {made.model_version}, gates: {', '.join(made.manifest.gates) or 'none'}")
        case "reference":
            from graphs.commands.drift_reference import from_live

            from_live(args.artifact, args.live, args.out)
        case "serve":
            from graphs.commands.serve import serve

            return serve(args.config)
        case "check":
            from graphs.config_file import load

            load(args.config)
            print(f"{args.config}: every key and value is as it should be")
        case "kuberay":
            from graphs.commands.kuberay import write

            write(args.profile, args.config, args.out)
        case "plan":
            from graphs.commands.gpu_plan import report as plan

            plan(args.config, args.gpus, args.needs, args.out, args.merged)
        case "docs":
            from graphs.commands.docs import write as write_docs

            write_docs(args.out)
        case "simulate":
            from graphs.commands.simulate import report as simulate

            policies = args.policy.split(",")
            simulate(args.trace, policies, args.rate, args.startup, args.seed, args.out)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m graphs", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)

    train = commands.add_parser("train", help="events → models → evaluated artifact")
    train.add_argument("--data", default="movielens", help="`movielens`, or a folder with interactions.parquet, …")
    train.add_argument("--out", default="artifacts/movielens", help="folder of the artifact")
    train.add_argument("--seed", type=int, default=1)
    train.add_argument("--config", default="serve_config.yaml", help="the stages that the evaluation runs")

    evaluate = commands.add_parser("evaluate", help="the evaluation table of an artifact, as Markdown")
    evaluate.add_argument("--artifact", default="artifacts/movielens")
    evaluate.add_argument("--data", default="movielens")
    evaluate.add_argument("--out", default="benchmarks/RESULTS.md")
    evaluate.add_argument("--config", default="serve_config.yaml", help="the stages that the evaluation runs")

    package = commands.add_parser("package", help="another way of scoring for an artifact: built, gated, recorded")
    package.add_argument("artifact")
    package.add_argument("--backend", choices=("eager", "compiled", "tensorrt"), help="left out: that of the config")
    package.add_argument("--precision", choices=("auto", "fp32", "bf16", "fp16", "int8"))
    package.add_argument("--data", default="movielens", help="what the artifact was trained on")
    package.add_argument("--config", default="serve_config.yaml", help="the stages that make the candidates")

    reference = commands.add_parser("reference", help="an artifact whose drift reference is live traffic")
    reference.add_argument("--artifact", default="artifacts/movielens", help="the one that is served")
    reference.add_argument("--live", required=True, help="live.parquet, in the folder of its drift reports")
    reference.add_argument("--out", required=True, help="folder of the new artifact")

    serve = commands.add_parser("serve", help="serve_config.yaml with the fast flags")
    serve.add_argument("config", nargs="?", default="serve_config.yaml")

    check = commands.add_parser("check", help="the keys and values of a config file, without Ray")
    check.add_argument("config", nargs="?", default="serve_config.yaml")

    kuberay = commands.add_parser("kuberay", help="a RayService for Kubernetes, from serve_config.yaml and a profile")
    kuberay.add_argument("--profile", default="cpu", help="cpu, gpu (cluster/kubernetes/profiles/), or a file")
    kuberay.add_argument("--config", default="serve_config.yaml")
    kuberay.add_argument("--out", default="-", help="file to write; -: standard output")
    plan = commands.add_parser("plan", help="how the stages share GPUs, as a table and an overlay for the config file")
    plan.add_argument("config", nargs="?", default="serve_config.yaml")
    plan.add_argument("--gpus", action="append", default=[], help="TYPE:NODES or TYPE:NODESxGPUS; more than once")
    plan.add_argument("--needs", default="", help="YAML with what is known of stages, GPUs and CUDA's context")
    plan.add_argument("--out", default="", help="file for the overlay")
    plan.add_argument("--merged", default="", help="file for the config with the overlay in it")

    docs = commands.add_parser("docs", help="the pages under docs/ that are generated from the code")
    docs.add_argument("--out", default="docs", help="folder to write")

    simulate = commands.add_parser("simulate", help="autoscaling policies under a trace, without a cluster")
    simulate.add_argument(
        "--trace", default="flash10", help="a name (cluster/simulator/traces.py), or a CSV of counts per second"
    )
    simulate.add_argument("--policy", default="ours,knative,kubernetes,oracle", help="names, or module:attribute")
    simulate.add_argument("--rate", type=float, default=500.0, help="base of the trace, requests/s")
    simulate.add_argument("--startup", type=float, default=5.0, help="seconds until a new replica serves")
    simulate.add_argument("--seed", type=int, default=1)
    simulate.add_argument("--out", default="simulation.png", help="the plot; '': none")
    return parser


if __name__ == "__main__":
    sys.exit(main())
