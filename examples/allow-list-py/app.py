"""An allow-list of models for each user, in the attribute `models`: `llama3` means each of its tags, `*` all models.

Who has no such attribute may use no model. Calls that name none pass.
"""

from wit_world import exports
from wit_world.exports.admit import Decision, Decision_Abstain, Decision_Reject
from wit_world.imports import principals
from wit_world.imports.types import Call, Principal, Reason, Rejection


class Lifecycle(exports.Lifecycle):
    def configure(self, settings: str) -> None:
        """There are none."""


class Admit(exports.Admit):
    def decide(self, call: Call, principal: Principal) -> Decision:
        allowed = principals.attribute("models")
        name = call.model.rpartition(":")[0]
        if not call.model or any(model in ("*", call.model, name) for model in allowed):
            return Decision_Abstain()
        message = f"you may not use {call.model}"
        return Decision_Reject(Rejection(Reason.FORBIDDEN, "model_not_allowed", message, None))
