// Inference only in office hours, Monday to Friday; listings and facts of a model pass at any time.
// Settings, with their defaults: { "zone": "UTC", "from": 8, "to": 18 }, hours of an IANA zone.

import env from "tollgate:policy/env@0.1.0";

const FREE = ["show", "listing", "manage"];
let settings = { zone: "UTC", from: 8, to: 18 };

export const lifecycle = {
  configure(text) {
    const given = JSON.parse(text);
    for (const name of Object.keys(given)) {
      if (!(name in settings)) {
        throw `there is no setting '${name}'; there are zone, from and to`;
      }
    }
    settings = { ...settings, ...given };
  },
};

function isOpen() {
  try {
    const now = env.localNow(settings.zone);
    return now.weekday <= 5 && now.hour >= settings.from && now.hour < settings.to;
  } catch {
    // A zone that doesn't exist has no hours at which calls pass.
    return false;
  }
}

export const admit = {
  decide(call, _principal) {
    if (FREE.includes(call.operation) || isOpen()) {
      return { tag: "abstain" };
    }
    const rejection = {
      reason: "forbidden",
      code: "outside_office_hours",
      message: "closed: call in office hours",
      retryAfterMs: null,
    };
    return { tag: "reject", val: rejection };
  },
};
