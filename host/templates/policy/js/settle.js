// Says in the log which calls failed.

import env from "tollgate:policy/env@0.1.0";

export const lifecycle = {
  // Settings are JSON text; throw a string to refuse them.
  configure(_settings) {},
};

export const settle = {
  done(_call, principal, outcome) {
    if (outcome.status >= 500) {
      env.log("warn", `a call of ${principal.subject} ended with status ${outcome.status}`);
    }
  },
};
