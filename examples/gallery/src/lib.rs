//! Eighteen policies of at most 30 lines, each one file beside this folder: copy the one that comes closest.
//!
//! - Who calls (`authenticate`): `allow-network` only inside known networks, `jwt` a signed token instead of a key.
//! - What a call may do and cost (`admit`): `alias` one name for several models, `canary-models` a share of one
//!   model's calls to another, `charge-by-size` bigger models cost more, `clamp-keep-alive` no model loaded for ever,
//!   `deny-cloud` local models only, `double-at-night` higher limits at night, `end-user-quota` a quota per user behind
//!   one key, `model-groups` models by group, `office-hours` not at night, `pin-num-ctx` one context length for all,
//!   `weigh-by-size` tokens of bigger models weigh more.
//! - Which backend (`route`): `least-busy` the fewest calls, `prefix-affinity` prompts that begin alike together,
//!   `sticky` a caller stays where it was, `weights` by chance and weight.
//! - What a call came to (`settle`): `spend-alert` a word in the log when somebody has used much.
