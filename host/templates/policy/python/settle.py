"""Says in the log which calls failed."""

from wit_world import exports
from wit_world.exports.settle import Outcome
from wit_world.imports import env
from wit_world.imports.types import Call, Principal


class Lifecycle(exports.Lifecycle):
    def configure(self, settings: str) -> None:
        """Settings are JSON text; raise `componentize_py_types.Err("why")` to refuse them."""


class Settle(exports.Settle):
    def done(self, call: Call, principal: Principal, outcome: Outcome) -> None:
        if outcome.status >= 500:
            env.log(env.Level.WARN, f"a call of {principal.subject} ended with status {outcome.status}")
