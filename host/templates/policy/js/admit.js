// Refuses calls whose prompt is too long; has no opinion on others.

const MOST_INPUT_TOKENS = 100_000;

export const lifecycle = {
  // Settings are JSON text; throw a string to refuse them.
  configure(_settings) {},
};

export const admit = {
  decide(call, _principal) {
    if (call.inputTokens <= MOST_INPUT_TOKENS) {
      return { tag: "abstain" };
    }
    const rejection = {
      reason: "forbidden",
      code: "prompt_too_long",
      message: "the prompt is too long",
      retryAfterMs: null,
    };
    return { tag: "reject", val: rejection };
  },
};
