"""Whether a data set and a configuration can be trained on together: checked before anything is fitted."""

from __future__ import annotations

import numpy as np

from deployments.artifact.catalogue import Catalogue
from deployments.errors import ConfigError
from deployments.stages.business_rules import bind_rule
from deployments.stages.ranking import check_category
from graphs.config import RecommenderArgs
from graphs.data.data_file import INTERACTIONS, ITEMS
from graphs.data.dataset import Dataset
from graphs.data.findings import Findings, counted, listed
from graphs.data.repeats import MIN_USERS, judged_users, taken_out
from graphs.data.splits import Split, ranking_split

MIN_ITEMS = 10


def check_trainable(dataset: Dataset, config: RecommenderArgs, split: Split | None = None) -> list[str]:
    """Refuses what training would fail on. Returns sentences about what the data change in the configuration.
    `split`: of the evaluation; per user by default.

    Raises:
        DataFaults: too few items or users with successes, or a configuration that does not fit the features; one
            sentence per fault, with the counts and the remedy.
    """
    findings = Findings()
    n_items = len(dataset.items)
    if n_items < MIN_ITEMS:
        findings.fault(f"{ITEMS}: {counted(n_items, 'item')}; it takes {MIN_ITEMS}")
    n_candidates = config.stages.candidates.config.n_candidates
    if n_candidates > n_items:
        findings.note(
            f"stages.candidates.config.n_candidates is {n_candidates}, but there are {counted(n_items, 'item')}: each "
            f"request gets {n_items} candidates at most"
        )
    split = split or Split.choose("user", dataset.interactions)
    if split.kind == "time" or _check_successes(dataset, findings):
        _check_split(dataset, split, findings)
    _check_ranking(dataset, config, findings)
    findings.raise_faults()
    return findings.notes


def _check_split(dataset: Dataset, split: Split, findings: Findings) -> None:
    """The ranking model learns from the training part, and needs users with something to find in it."""
    parts = split(dataset.interactions)
    learnable = len(np.unique(ranking_split(parts.train)[1].user_E)) if len(parts.train) else 0
    if learnable < MIN_USERS:
        findings.fault(
            f"{INTERACTIONS}: without the test part ({split}), {counted(learnable, 'user')} have a success after "
            f"another event; it takes {MIN_USERS}; bring more events, or let a frequent type be a success by "
            "events.types of the configuration"
        )


def _check_successes(dataset: Dataset, findings: Findings) -> bool:
    """Whether enough users have successes, and such as can be answered."""
    events = dataset.interactions
    out_E = taken_out(events.user_E, events.item_E, events.timestamp_E, events.seen_until_E)
    judged = judged_users(events.user_E, events.target_E, out_E)
    if judged.with_successes < MIN_USERS:
        count_T = np.bincount(events.type_E, minlength=len(dataset.event_types))
        success_T = np.bincount(events.type_E[events.target_E], minlength=len(dataset.event_types))
        types = [
            f"{name} {count:,} ({successes:,} successes)"
            for name, count, successes in zip(dataset.event_types, count_T, success_T, strict=True)
            if count
        ]
        findings.fault(
            f"{INTERACTIONS}: {judged.with_successes:,} of {counted(len(dataset.users), 'user')} have {judged.least} "
            f"or more successes (events that the models learn to predict: weight 0.8 or more, or of the type "
            f"events.target); it takes {MIN_USERS}; there are {int(events.target_E.sum()):,} successes among "
            f"{counted(len(events), 'event')}: {listed(types)}; bring more events, or let a frequent type be a success "
            "by events.types of the configuration, such as view: {success: true}, or train with --split time, for "
            "which one success is enough"
        )
    elif judged.answerable < MIN_USERS:
        findings.fault(
            f"{INTERACTIONS}: of {counted(judged.with_successes, 'user')} with enough successes only "
            f"{judged.answerable} have one late in their history on an item that was not taken out of their answers "
            f"before; it takes {MIN_USERS}; set seen: never for the types that recur, under events of the configuration"
        )
    else:
        return True
    return False


def _check_ranking(dataset: Dataset, config: RecommenderArgs, findings: Findings) -> None:
    """The category and the rules of the ranking stage against the items' features."""
    ranking = config.stages.ranking.config
    if not (ranking.category_cap or ranking.rules):
        return
    catalogue = Catalogue.from_table(dataset.items)
    if ranking.category_cap:
        try:
            check_category(ranking.category, catalogue)
        except ConfigError as error:
            findings.fault(f"stages.ranking.config: {error}")
    for index, rule in enumerate(ranking.rules):
        try:
            bind_rule(index, rule, catalogue)
        except ConfigError as error:
            findings.fault(f"stages.ranking.config: {error}")
