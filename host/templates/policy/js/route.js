// Ranks backends: the one with the fewest calls comes first, the others follow for failover.

export const lifecycle = {
  // Settings are JSON text; throw a string to refuse them.
  configure(_settings) {},
};

export const route = {
  choose(_call, _principal, backends) {
    backends.sort((one, other) => one.inFlight - other.inFlight);
    return { tag: "ranked", val: backends.map((backend) => backend.id) };
  },
};
