// Refuses calls whose prompt is too long; has no opinion on others.

#include "policy.h"

static const uint32_t most_input_tokens = 100000;

// Settings are JSON text; to refuse them, say why in `error` with policy_string_dup and answer false.
bool exports_tollgate_policy_lifecycle_configure(policy_string_t *settings, policy_string_t *error) {
    (void)error;
    policy_string_free(settings);
    return true;
}

void exports_tollgate_policy_admit_decide(exports_tollgate_policy_admit_call_t *call,
                                          exports_tollgate_policy_admit_principal_t *principal,
                                          exports_tollgate_policy_admit_decision_t *decision) {
    if (call->input_tokens <= most_input_tokens) {
        decision->tag = EXPORTS_TOLLGATE_POLICY_ADMIT_DECISION_ABSTAIN;
    } else {
        // What is answered is freed after the call: hence copies.
        decision->tag = EXPORTS_TOLLGATE_POLICY_ADMIT_DECISION_REJECT;
        decision->val.reject.reason = TOLLGATE_POLICY_TYPES_REASON_FORBIDDEN;
        policy_string_dup(&decision->val.reject.code, "prompt_too_long");
        policy_string_dup(&decision->val.reject.message, "the prompt is too long");
        decision->val.reject.retry_after_ms.is_some = false;
    }
    exports_tollgate_policy_admit_call_free(call);
    exports_tollgate_policy_admit_principal_free(principal);
}
