// Refuses models whose tag is `cloud` or ends with `-cloud`: prompts stay in the house.

#include <string.h>

#include "policy.h"

bool exports_tollgate_policy_lifecycle_configure(policy_string_t *settings, policy_string_t *error) {
    (void)error;
    policy_string_free(settings);
    return true;
}

static bool ends_with(const char *text, size_t length, const char *end) {
    size_t end_length = strlen(end);
    return length >= end_length && memcmp(text + length - end_length, end, end_length) == 0;
}

// Names are canonical here: lower case, and with a tag.
static bool is_cloud(const policy_string_t *model) {
    const char *name = (const char *)model->ptr;
    return ends_with(name, model->len, ":cloud") || (memchr(name, ':', model->len) != NULL && ends_with(name, model->len, "-cloud"));
}

void exports_tollgate_policy_admit_decide(exports_tollgate_policy_admit_call_t *call,
                                          exports_tollgate_policy_admit_principal_t *principal,
                                          exports_tollgate_policy_admit_decision_t *decision) {
    if (is_cloud(&call->model)) {
        // What is answered is freed after the call: hence copies.
        decision->tag = EXPORTS_TOLLGATE_POLICY_ADMIT_DECISION_REJECT;
        decision->val.reject.reason = TOLLGATE_POLICY_TYPES_REASON_FORBIDDEN;
        policy_string_dup(&decision->val.reject.code, "cloud_model");
        policy_string_dup(&decision->val.reject.message, "models in the cloud are not served here");
        decision->val.reject.retry_after_ms.is_some = false;
    } else {
        decision->tag = EXPORTS_TOLLGATE_POLICY_ADMIT_DECISION_ABSTAIN;
    }
    exports_tollgate_policy_admit_call_free(call);
    exports_tollgate_policy_admit_principal_free(principal);
}
