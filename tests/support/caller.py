"""Another Ray application that calls the recommender by its handle. Runs as a program without our packages.

stdin: {"address": …, "calls": [[method, body], …]}; the file named in argv: {"answers": […], "gpus_free": …}.
"""

import json
import sys


class WithoutOurPackages:
    """Makes the import of our packages fail, as where they are not installed."""

    def find_spec(self, name, path=None, target=None):  # type: ignore[no-untyped-def]
        if name.partition(".")[0] in ("graphs", "deployments", "cluster", "monitoring"):
            raise ModuleNotFoundError(f"the caller has no module {name}", name=name)


sys.meta_path.insert(0, WithoutOurPackages())

import ray  # noqa: E402
from ray import serve  # noqa: E402

asked = json.load(sys.stdin)
ray.init(address=asked["address"], log_to_driver=False)
handle = serve.get_app_handle("recommender")
answers = []
pending = [getattr(handle, method).remote(body) for method, body in asked["calls"]]
for response in pending:
    try:
        answers.append({"answer": response.result(timeout_s=60)})
    except ValueError as error:
        answers.append({"value_error": str(error)})
    except Exception as error:
        answers.append({"other": f"{type(error).__mro__}: {error}"})
with open(sys.argv[1], "w") as out:
    json.dump({"answers": answers, "gpus_free": ray.available_resources().get("GPU", 0)}, out)  # type: ignore[no-untyped-call]
