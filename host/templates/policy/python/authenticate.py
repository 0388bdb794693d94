"""Refuses callers from other networks; has no opinion on those from within, so that keys decide."""

from wit_world import exports
from wit_world.exports.authenticate import Decision, Decision_Abstain, Decision_Reject
from wit_world.imports import request
from wit_world.imports.types import Head, Presented, Reason, Rejection

OWN_NETWORKS = ["127.0.0.0/8", "10.0.0.0/8"]


class Lifecycle(exports.Lifecycle):
    def configure(self, settings: str) -> None:
        """Settings are JSON text; raise `componentize_py_types.Err("why")` to refuse them."""


class Authenticate(exports.Authenticate):
    def check(self, head: Head, presented: Presented | None) -> Decision:
        if any(request.peer_in(network) for network in OWN_NETWORKS):
            return Decision_Abstain()
        return Decision_Reject(Rejection(Reason.FORBIDDEN, "unknown_network", "call from the own network", None))
