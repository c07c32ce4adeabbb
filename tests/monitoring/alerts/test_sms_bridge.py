"""The SMS bridge between real HTTP servers: a text for each notification, and errors of callers and of the provider."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

import httpx

from monitoring.alerts.sms_bridge import LONGEST, SmsProvider, server, text_of
from tests.support.sinks import http_server, serving


def notification(summary: str = "The store does not answer", alerts: int = 1) -> dict[str, Any]:
    labels = {"alertname": "RayfunnelStoreDown"}
    one = {"labels": labels, "annotations": {"summary": summary}}
    return {"version": "4", "status": "firing", "commonLabels": labels, "alerts": [one] * alerts}


def test_a_notification_becomes_one_sms_with_the_providers_fields_and_secret(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("account:pass\n")
    with http_server() as calls:
        provider = SmsProvider(calls.url, {"to": "+4712345678"}, secret_file=secret)
        with serving(server(provider, "127.0.0.1", 0, token="t")) as port:
            bridge = f"http://127.0.0.1:{port}/"
            assert httpx.post(bridge, json=notification()).status_code == 401
            headers = {"Authorization": "Bearer t"}
            assert httpx.post(bridge, json=notification(), headers=headers).status_code == 200
            calls.status = 500
            assert httpx.post(bridge, json=notification(), headers=headers).status_code == 502
            for wrong in (b"{", b"[]", b"{}"):
                assert httpx.post(bridge, content=wrong, headers=headers).status_code == 400
    (got, body), _ = calls.posts
    text = "FIRING RayfunnelStoreDown: The store does not answer"
    assert parse_qs(body.decode()) == {"to": ["+4712345678"], "body": [text]}
    assert got["Authorization"] == "Basic " + base64.b64encode(b"account:pass").decode()


def test_a_token_is_sent_as_bearer_and_the_text_as_json_if_configured(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("abc")
    with http_server() as calls:
        SmsProvider(calls.url, {"to": "1"}, "text", as_json=True, secret_file=secret).send("hello")
    assert calls.bodies == [{"to": "1", "text": "hello"}]
    assert calls.posts[0][0]["Authorization"] == "Bearer abc"


def test_a_long_summary_is_cut_to_one_sms_and_several_alerts_are_counted() -> None:
    assert len(text_of(notification("x" * 500))) == LONGEST
    assert text_of(notification(alerts=3)).startswith("FIRING RayfunnelStoreDown (+2): ")
