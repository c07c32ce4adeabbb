"""The OpenAPI document tells the truth: schemathesis sends what it allows and what not, and checks the answers."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from schemathesis.checks import CHECKS
from schemathesis.generation import GenerationMode

from deployments.api.http import HttpConfig
from deployments.api.operations import Recommender
from tests.support.http_server import http_server

pytestmark = pytest.mark.server
EXAMPLES = 50
LOST_IN_SCHEMAS = ("none is in the catalogue", "is greater than lte")
"""Why a body that its schema allows may still be refused with 422: which items there are is no schema's business, and
JSON Schema can't compare two fields."""


@pytest.fixture(scope="module")
def url(artifact: Any) -> Iterator[str]:
    from tests.support.in_process import recommender_builder

    build: Callable[..., Recommender] = recommender_builder(artifact, "eager")
    with http_server(lambda: build(), HttpConfig()) as address:
        yield address


@pytest.fixture(scope="module")
def document(url: str) -> Any:
    return schemathesis.openapi.from_url(f"{url}/openapi.json")


@pytest.mark.parametrize("mode", list(GenerationMode))
def test_answers_are_as_the_document_says(document: Any, mode: GenerationMode) -> None:
    operations = [found.ok() for found in document.get_all_operations()]
    assert len(operations) == 8
    for operation in operations:

        @settings(max_examples=EXAMPLES, derandomize=True, deadline=None, suppress_health_check=list(HealthCheck))
        @given(case=operation.as_strategy(generation_mode=mode))
        def answers(case: Any) -> None:
            response = case.call()
            checks = CHECKS.get_all()
            if response.status_code == 422 and any(reason in response.text for reason in LOST_IN_SCHEMAS):
                checks = [check for check in checks if check.__name__ != "positive_data_acceptance"]
            case.validate_response(response, checks=checks)

        if mode is GenerationMode.POSITIVE or operation.body:  # else nothing can be wrong in a request
            answers()
