"""Sends SMS by any provider with an HTTP API: accepts Alertmanager's webhook calls and posts a short text for each.

`python -m monitoring.alerts.sms_bridge --url https://… --field to=+47… --text-field body --secret-file …`
"""

from __future__ import annotations

import argparse
import base64
import hmac
import json
import logging
import sys
import urllib.parse
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

log = logging.getLogger("rayfunnel.sms")

LONGEST = 160
"""Characters of one SMS."""

_LARGEST_BODY = 1_000_000


@dataclass(frozen=True)
class SmsProvider:
    """The API of a provider. `fields`: sent with the text; `as_json`: as JSON, else as a form; `secret_file`: has a
    bearer token, or `name:password` for basic authentication; None: no authentication."""

    url: str
    fields: Mapping[str, str]
    text_field: str = "body"
    as_json: bool = False
    secret_file: Path | None = None
    timeout_s: float = 10.0

    def send(self, text: str) -> None:
        """Sends one SMS.

        Raises:
            OSError: the provider did not accept it.
        """
        content = {**self.fields, self.text_field: text}
        body = json.dumps(content) if self.as_json else urllib.parse.urlencode(content)
        kind = "application/json" if self.as_json else "application/x-www-form-urlencoded"
        headers = {"Content-Type": kind}
        if self.secret_file:
            secret = self.secret_file.read_text("utf-8").strip()
            basic = "Basic " + base64.b64encode(secret.encode()).decode()
            headers["Authorization"] = basic if ":" in secret else f"Bearer {secret}"
        request = urllib.request.Request(self.url, body.encode(), headers)  # noqa: S310 - http or https, see `main`
        with urllib.request.urlopen(request, timeout=self.timeout_s):  # noqa: S310
            pass


def text_of(notification: Mapping[str, Any]) -> str:
    """The text of a notification of Alertmanager (webhook, version 4), cut to one SMS."""
    alerts = notification["alerts"]
    name = notification["commonLabels"].get("alertname") or alerts[0]["labels"]["alertname"]
    more = f" (+{len(alerts) - 1})" if len(alerts) > 1 else ""
    text = f"{notification['status'].upper()} {name}{more}: {alerts[0]['annotations'].get('summary', '')}"
    return text if len(text) <= LONGEST else text[: LONGEST - 1] + "…"


def server(provider: SmsProvider, host: str, port: int, token: str = "") -> ThreadingHTTPServer:
    """Answers 200 once the provider has accepted the text; else 502, and Alertmanager retries.

    `token`: the bearer token that callers must send; empty: none.
    """

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            given = self.headers.get("Authorization", "")
            if token and not hmac.compare_digest(given.encode(), f"Bearer {token}".encode()):
                self._answer(401)
                return
            try:
                length = int(self.headers.get("Content-Length", "0"))
                if not 0 < length <= _LARGEST_BODY:
                    raise ValueError(f"a body of {length} bytes")
                text = text_of(json.loads(self.rfile.read(length)))
            except (ValueError, LookupError, TypeError, AttributeError) as error:
                log.warning("not a notification of Alertmanager: %r", error)
                self._answer(400)
                return
            try:
                provider.send(text)
            except OSError as error:
                log.error("the provider did not take an SMS: %s", error)
                self._answer(502)
                return
            self._answer(200)

        def _answer(self, status: int) -> None:
            self.send_response(status)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:
            log.debug(format, *args)

    return ThreadingHTTPServer((host, port), Handler)


def main() -> int:
    """Parses the arguments and serves."""
    parser = argparse.ArgumentParser(prog="python -m monitoring.alerts.sms_bridge", description=__doc__)
    parser.add_argument("--url", required=True, help="of the provider's API")
    parser.add_argument("--field", action="append", default=[], metavar="NAME=VALUE", help="sender, recipient, …")
    parser.add_argument("--text-field", default="body")
    parser.add_argument("--json", action="store_true", help="send JSON, not a form")
    parser.add_argument("--secret-file", type=Path, help="bearer token, or name:password")
    parser.add_argument(
        "--token-file", type=Path, help="file with the bearer token that Alertmanager must send (sms_bridge.token_file)"
    )
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=9095)
    args = parser.parse_args()
    logging.basicConfig(level=logging.INFO)
    if urllib.parse.urlsplit(args.url).scheme not in ("http", "https") or any("=" not in f for f in args.field):
        print("error: --url takes http(s)://…, --field NAME=VALUE", file=sys.stderr)
        return 1
    fields = dict(field.split("=", 1) for field in args.field)
    provider = SmsProvider(args.url, fields, args.text_field, args.json, args.secret_file)
    token = args.token_file.read_text("utf-8").strip() if args.token_file else ""
    with server(provider, args.host, args.port, token) as serving:
        serving.serve_forever()
    return 0


if __name__ == "__main__":
    sys.exit(main())
