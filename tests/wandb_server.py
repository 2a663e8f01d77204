"""A server on this machine that speaks as much of W&B's protocol as a run needs: GraphQL that makes a run, and the
stream of its files, whose lines it keeps by their number, as W&B does.
"""

import gzip
import json
import re
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

KEY = "a" * 40


class Runs:
    """What was sent, by run id: `history` (a line's number: its fields) and `summary`."""

    def __init__(self, refuse: bool):
        self.refuse, self.history, self.summary = refuse, {}, {}

    def graphql(self, query: str, variables: dict, url: str) -> dict:
        name = re.search(r"(?:query|mutation)\s+(\w+)", query)[1]
        if name == "CreateRunFiles":
            files = [{"name": file, "uploadUrl": f"{url}/upload"} for file in variables["files"]]
            return {"createRunFiles": {"runID": variables["run"], "uploadHeaders": [], "files": files}}
        if name != "UpsertBucket":
            return {}
        run = variables["name"]
        entity = variables.get("entity") or "someone"
        project = {"id": "1", "name": variables["project"], "entity": {"id": "1", "name": entity}}
        bucket = {"id": run, "name": run, "displayName": variables.get("displayName"), "project": project}
        return {"upsertBucket": {"bucket": bucket, "inserted": True}}

    def stream(self, run: str, files: dict) -> None:
        for name, part in files.items():
            if name == "wandb-history.jsonl":
                lines = {part["offset"] + n: json.loads(line) for n, line in enumerate(part["content"])}
                self.history.setdefault(run, {}).update(lines)
            elif name == "wandb-summary.json":
                self.summary.setdefault(run, {}).update(json.loads(part["content"][-1]))

    def column(self, run: str, name: str) -> list:
        """A field of a run's history, in the order of its lines."""
        return [line[name] for _, line in sorted(self.history[run].items()) if name in line]


@contextmanager
def wandb_server(refuse: bool = False):
    """The server's address and its runs. refuse: it takes no key."""
    runs = Runs(refuse)

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            content = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            if self.headers.get("Content-Encoding") == "gzip":
                content = gzip.decompress(content)
            if runs.refuse:
                return self.answer({"errors": [{"message": "user is not logged in"}]}, 401)
            if self.path == "/graphql":
                asked = json.loads(content)
                return self.answer({"data": runs.graphql(asked["query"], asked.get("variables") or {}, url)})
            if found := re.fullmatch(r"/files/[^/]+/[^/]+/([^/]+)/file_stream", self.path):
                runs.stream(found[1], json.loads(content).get("files") or {})
            return self.answer({})

        do_GET = do_PUT = do_POST

        def answer(self, content: dict, status: int = 200) -> None:
            body = json.dumps(content).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *arguments):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    url = f"http://127.0.0.1:{server.server_port}"
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield url, runs
    finally:
        server.shutdown()
