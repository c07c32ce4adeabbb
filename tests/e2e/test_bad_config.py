"""A configuration that can't work shows one sentence in `serve status`, and touches nothing that runs."""

from __future__ import annotations

import copy

from tests.support.processes import free_port, wait_for
from tests.support.ray_cluster import Cluster
from tests.support.serve_config import Config, application


def test_serve_status_shows_the_sentence_and_what_runs_stays_as_it_is(served: Cluster, config: Config) -> None:
    before = served.replicas()
    bad = copy.deepcopy(config)
    address = f"redis://127.0.0.1:{free_port()}/0"
    for name, changes in {"misspelt": {"piepline": {}}, "no-store": {"store": {"redis_url": address}}}.items():
        broken = copy.deepcopy(application(config, "recommender")) | {"name": name, "route_prefix": f"/{name}"}
        broken["args"] |= changes
        bad["applications"].append(broken)
    served.submit(bad)

    def failed() -> list[str]:
        shown = served.applications()
        return [shown[name]["message"] for name in ("misspelt", "no-store") if shown[name]["status"] == "DEPLOY_FAILED"]

    messages = wait_for("both failed", lambda: found if len(found := failed()) == 2 else None)
    misspelt, no_store = messages
    assert misspelt.endswith("args.piepline is not a known key; remove it or mend its spelling")
    assert f"store.redis_url: the store at {address} " in no_store
    assert no_store.endswith("; start it, or mend the address")
    assert [message.count("\n") for message in messages] == [1, 1], "one line of Serve's, one of ours"
    assert len(served.recommend("u1")["items"]) == 10
    assert served.replicas() == before
    served.deploy(config)
    assert served.replicas() == before
