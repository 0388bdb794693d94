"""Refuses calls whose prompt is too long; has no opinion on others."""

from wit_world import exports
from wit_world.exports.admit import Decision, Decision_Abstain, Decision_Reject
from wit_world.imports.types import Call, Principal, Reason, Rejection

MOST_INPUT_TOKENS = 100_000


class Lifecycle(exports.Lifecycle):
    def configure(self, settings: str) -> None:
        """Settings are JSON text; raise `componentize_py_types.Err("why")` to refuse them."""


class Admit(exports.Admit):
    def decide(self, call: Call, principal: Principal) -> Decision:
        if call.input_tokens <= MOST_INPUT_TOKENS:
            return Decision_Abstain()
        return Decision_Reject(Rejection(Reason.FORBIDDEN, "prompt_too_long", "the prompt is too long", None))
