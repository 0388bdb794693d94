// Refuses callers from other networks; has no opinion on those from within, so that keys decide.

import request from "tollgate:policy/request@0.1.0";

const OWN_NETWORKS = ["127.0.0.0/8", "10.0.0.0/8"];

export const lifecycle = {
  // Settings are JSON text; throw a string to refuse them.
  configure(_settings) {},
};

export const authenticate = {
  check(_head, _presented) {
    if (OWN_NETWORKS.some((network) => request.peerIn(network))) {
      return { tag: "abstain" };
    }
    const rejection = {
      reason: "forbidden",
      code: "unknown_network",
      message: "call from the own network",
      retryAfterMs: null,
    };
    return { tag: "reject", val: rejection };
  },
};
