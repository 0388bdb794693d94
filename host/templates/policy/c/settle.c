// Says in the log which calls failed.

#include <stdio.h>

#include "policy.h"

// Settings are JSON text; to refuse them, say why in `error` with policy_string_dup and answer false.
bool exports_tollgate_policy_lifecycle_configure(policy_string_t *settings, policy_string_t *error) {
    (void)error;
    policy_string_free(settings);
    return true;
}

void exports_tollgate_policy_settle_done(exports_tollgate_policy_settle_call_t *call,
                                         exports_tollgate_policy_settle_principal_t *principal,
                                         exports_tollgate_policy_settle_outcome_t *outcome) {
    if (outcome->status >= 500) {
        char line[256];
        policy_string_t text;
        snprintf(line, sizeof line, "a call of %.*s ended with status %d", (int)principal->subject.len,
                 (const char *)principal->subject.ptr, outcome->status);
        policy_string_set(&text, line);
        tollgate_policy_env_log(TOLLGATE_POLICY_ENV_LEVEL_WARN, &text);
    }
    exports_tollgate_policy_settle_call_free(call);
    exports_tollgate_policy_settle_principal_free(principal);
    exports_tollgate_policy_settle_outcome_free(outcome);
}
