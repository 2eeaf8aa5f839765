"""A child without Discord: says what a bot says, and misbehaves where its arguments tell it to.

Arguments are words ``what=where``. Where: start, hello, connecting, ready, activate (before the acknowledgement),
active (after it), introduce, standby (before the acknowledgement), drain, draining. What: exit, kill, fail (raises
REASON), fatal, retryable, garbage, hang (deaf to SIGTERM), silent, close (its pipe), deaf (does not acknowledge, goes
on). Also shards=N, remaining=N (of 1000 IDENTIFYs), protocol=N, print=TEXT, show=NAME (of the environment), reason=TEXT
(of fatal and fail), listen=1 (at some port), stay=1 (after it has drained), busy=1 (never done draining
unless hurried), linger=N (N views stay open after it has drained, until SIGWINCH or a drain without linger), orphans=N
(left behind at once), flood=N (numbered lines of output once it is ready). SIGHUP makes it send garbage, SIGUSR2 close
its pipe, SIGUSR1 print its stacks. It beats while it listens. Stands on the standard library alone, so that it starts
fast.
"""

from __future__ import annotations

import argparse
import faulthandler
import json
import os
import select
import signal
import socket
import sys
import time

sys.path.insert(0, __file__.rpartition("/")[0])

import handshake

BEAT_SECONDS = 0.1


class Fake:
    def __init__(self) -> None:
        parser = argparse.ArgumentParser()
        for name in (
            "generation",
            "program",
            "app",
            "shards",
            "role",
            "ledger",
            "left",
            "api-url",
            "directory",
            "expired-text",
        ):
            parser.add_argument(f"--{name}", required=True)
        for name in ("state-timeout", "checkpoint"):
            parser.add_argument(f"--{name}", required=True)
        parser.add_argument("--supervisor", type=int, default=0)
        parser.add_argument("--read", type=int, required=True)
        parser.add_argument("--write", type=int, required=True)
        parser.add_argument("args", nargs="*")
        self.options = parser.parse_args()
        self.script = dict(word.partition("=")[::2] for word in self.options.args)
        self.shards = int(self.script.get("shards", "1"))
        self.buffer = handshake.take()
        self.draining = self.ready = False
        self.served = self.options.role == "active"
        self.lingering = 0
        signal.signal(signal.SIGWINCH, lambda *_: self.leave("people"))
        faulthandler.register(signal.SIGUSR1, file=sys.stderr)
        signal.signal(signal.SIGHUP, lambda *_: os.write(self.options.write, b"garbage\n"))
        signal.signal(signal.SIGUSR2, lambda *_: os.close(self.options.write))

    def say(self, kind: str, **fields: object) -> None:
        os.write(self.options.write, json.dumps({"type": kind, **fields}).encode() + b"\n")

    def hear(self) -> dict[str, object]:
        while b"\n" not in self.buffer:
            if not select.select([self.options.read], [], [], BEAT_SECONDS)[0]:
                self.beat(pong=0)
                continue
            data = os.read(self.options.read, 65536)
            if not data:
                sys.exit(0)
            self.buffer += data
        line, _, self.buffer = self.buffer.partition(b"\n")
        message: dict[str, object] = json.loads(line)
        return message

    def at(self, place: str) -> None:
        script = self.script
        if script.get("exit") == place:
            raise ModuleNotFoundError("No module named 'cards'")
        if script.get("fail") == place:
            raise OSError(script["reason"])
        if script.get("kill") == place:
            os.kill(os.getpid(), signal.SIGKILL)
        for word in ("fatal", "retryable"):
            if script.get(word) == place:
                reason = self.script.get("reason", "the token was refused")
                self.say("fatal", reason=reason, retryable=word == "retryable")
                sys.exit(1)
        if script.get("garbage") == place:
            os.write(self.options.write, b'{"type": "nonsense"}\n')
        if script.get("close") == place:
            os.close(self.options.write)
            self.sleep()
        if script.get("hang") == place:
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
            self.sleep()
        if script.get("silent") == place:
            self.sleep()

    def sleep(self) -> None:
        while True:
            time.sleep(60)

    def run(self) -> None:
        if "print" in self.script:
            print(self.script["print"].replace("TOKEN", os.environ.get("DISCORD_TOKEN", "")), file=sys.stderr)
        if "listen" in self.script:
            self.server = socket.create_server(("127.0.0.1", 0))
            print("listens at", self.server.getsockname()[1], flush=True)
        if "show" in self.script:
            print(f"{self.script['show']} is {os.environ.get(self.script['show'])}", flush=True)
        for _ in range(int(self.script.get("orphans", "0"))):
            if not os.fork():
                os._exit(7 if os.fork() else 8)
            os.wait()
        self.at("start")
        self.say("hello", pid=os.getpid(), protocol=int(self.script.get("protocol", "7")), versions={"fake": "1"})
        self.at("hello")
        remaining = int(self.script.get("remaining", "900"))
        limits = {"total": 1000, "remaining": remaining, "reset_after": 3600.0, "max_concurrency": 1}
        self.say("limits", shards=self.shards, **limits)
        self.connect()
        self.at("connecting")
        self.say("ready", shards=self.shards, guilds=7)
        self.ready = True
        for number in range(int(self.script.get("flood", "0"))):
            print(f"{number:06} {'x' * 80}")
        self.at("ready")
        while True:
            self.obey(self.hear())

    def connect(self) -> None:
        for shard in range(self.shards):
            self.say("identify", shard=shard)
        for _ in range(self.shards):
            message = self.hear()
            while message["type"] != "permit":
                self.obey(message)
                message = self.hear()
            self.say("shard", id=message["shard"], state="connecting")
            print(f"identified {time.monotonic()}", flush=True)
            self.say("shard", id=message["shard"], state="ready", latency_ms=4.5)

    def obey(self, message: dict[str, object]) -> None:
        kind = message["type"]
        deaf = self.script.get("deaf") == kind
        if kind == "activate":
            self.at("activate")
            self.served = True
            self.draining, self.lingering = False, 0
            if not deaf:
                self.say("role", role="active")
            self.at("active")
        elif kind == "recover" and self.ready and not self.served:
            self.say("ready", shards=self.shards, guilds=7)
        elif kind == "drain":
            self.drain(message["limit"], message["linger"])
        elif kind == "inquire" and not deaf:
            names = [self.script["left"]] if "left" in self.script else []
            self.say("cut", generation=message["generation"], names=names)
        elif kind == "ping":
            self.beat(pong=message["n"])
        elif kind == "introduce":
            self.at("introduce")
            self.say("ready", shards=self.shards, guilds=7)
            for shard in range(self.shards):
                self.say("shard", id=shard, state="ready", latency_ms=4.5)
            self.say("role", role="active")
        elif kind == "standby":
            self.at("standby")
            if not deaf:
                self.say("role", role="standby")

    def beat(self, *, pong: object) -> None:
        counters = {
            "in_flight": 0,
            "lingering": self.lingering,
            "handled": 12,
            "replayed": 3,
            "expired": 1,
            "overflowed": 2,
        }
        self.say("beat", n=1, loop_lag_ms=0.5, guilds=7, pong=pong, **counters)

    def drain(self, limit: object, linger: object) -> None:
        self.at("drain")
        hurried, self.draining = self.draining, True
        if not hurried:
            self.say("role", role="draining")
        self.at("draining")
        if "busy" in self.script and not hurried:
            return
        if self.script.get("linger") and linger:
            if not self.lingering:
                self.lingering = int(self.script["linger"])
                self.say("lingering", views=self.lingering, conversations=0)
            return
        self.leave(limit)

    def leave(self, limit: object) -> None:
        print(f"drained within {limit}", flush=True)
        self.say("drained", finished=5, cut=["on_message"])
        if "stay" not in self.script:
            sys.exit(0)


if __name__ == "__main__":
    Fake().run()
