"""Ranks backends: the one with the fewest calls comes first, the others follow for failover."""

from wit_world import exports
from wit_world.exports.route import Decision, Decision_Ranked
from wit_world.imports.types import Backend, Call, Principal


class Lifecycle(exports.Lifecycle):
    def configure(self, settings: str) -> None:
        """Settings are JSON text; raise `componentize_py_types.Err("why")` to refuse them."""


class Route(exports.Route):
    def choose(self, call: Call, principal: Principal, backends: list[Backend]) -> Decision:
        backends.sort(key=lambda backend: backend.in_flight)
        return Decision_Ranked([backend.id for backend in backends])
