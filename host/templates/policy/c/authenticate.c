// Refuses callers from other networks; has no opinion on those from within, so that keys decide.

#include "policy.h"

static const char *const own_networks[] = {"127.0.0.0/8", "10.0.0.0/8"};

// Settings are JSON text; to refuse them, say why in `error` with policy_string_dup and answer false.
bool exports_tollgate_policy_lifecycle_configure(policy_string_t *settings, policy_string_t *error) {
    (void)error;
    policy_string_free(settings);
    return true;
}

static bool is_from_within(void) {
    for (size_t at = 0; at < sizeof own_networks / sizeof *own_networks; at++) {
        policy_string_t network;
        policy_string_set(&network, own_networks[at]);
        if (tollgate_policy_request_peer_in(&network)) {
            return true;
        }
    }
    return false;
}

void exports_tollgate_policy_authenticate_check(exports_tollgate_policy_authenticate_head_t *head,
                                                exports_tollgate_policy_authenticate_presented_t *presented,
                                                exports_tollgate_policy_authenticate_decision_t *decision) {
    if (is_from_within()) {
        decision->tag = EXPORTS_TOLLGATE_POLICY_AUTHENTICATE_DECISION_ABSTAIN;
    } else {
        // What is answered is freed after the call: hence copies.
        decision->tag = EXPORTS_TOLLGATE_POLICY_AUTHENTICATE_DECISION_REJECT;
        decision->val.reject.reason = TOLLGATE_POLICY_TYPES_REASON_FORBIDDEN;
        policy_string_dup(&decision->val.reject.code, "unknown_network");
        policy_string_dup(&decision->val.reject.message, "call from the own network");
        decision->val.reject.retry_after_ms.is_some = false;
    }
    exports_tollgate_policy_authenticate_head_free(head);
    if (presented != NULL) {
        exports_tollgate_policy_authenticate_presented_free(presented);
    }
}
