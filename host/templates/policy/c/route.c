// Ranks backends: the one with the fewest calls comes first, the others follow for failover.

#include <stdlib.h>

#include "policy.h"

// Settings are JSON text; to refuse them, say why in `error` with policy_string_dup and answer false.
bool exports_tollgate_policy_lifecycle_configure(policy_string_t *settings, policy_string_t *error) {
    (void)error;
    policy_string_free(settings);
    return true;
}

void exports_tollgate_policy_route_choose(exports_tollgate_policy_route_call_t *call,
                                          exports_tollgate_policy_route_principal_t *principal,
                                          exports_tollgate_policy_route_list_backend_t *backends,
                                          exports_tollgate_policy_route_decision_t *decision) {
    size_t count = backends->len;
    uint32_t *ids = malloc(count * sizeof *ids);
    if (ids == NULL) {
        abort();
    }
    // Each backend moves up past those that are busier; equal ones keep their order.
    for (size_t at = 0; at < count; at++) {
        size_t place = at;
        while (place > 0 && backends->ptr[place].in_flight < backends->ptr[place - 1].in_flight) {
            exports_tollgate_policy_route_backend_t moved = backends->ptr[place];
            backends->ptr[place] = backends->ptr[place - 1];
            backends->ptr[place - 1] = moved;
            place--;
        }
    }
    for (size_t at = 0; at < count; at++) {
        ids[at] = backends->ptr[at].id;
    }
    // What is answered is freed after the call.
    decision->tag = EXPORTS_TOLLGATE_POLICY_ROUTE_DECISION_RANKED;
    decision->val.ranked.ptr = ids;
    decision->val.ranked.len = count;
    exports_tollgate_policy_route_call_free(call);
    exports_tollgate_policy_route_principal_free(principal);
    exports_tollgate_policy_route_list_backend_free(backends);
}
