//! The JSON API of version 1, one file for each thing it is about. Nothing here is reached without the admin token.

mod asked;
mod backends;
mod explain;
mod keys;
mod limits;
mod policies;
mod status;
mod trying;
mod users;

use std::sync::Arc;

use axum::{Router, middleware::from_fn_with_state};

use super::{Shared, guard, problem};

/// Everything under `/api`.
pub(super) fn router(shared: &Arc<Shared>) -> Router<Arc<Shared>> {
    let running = Router::new()
        .merge(status::routes())
        .merge(policies::routes())
        .merge(backends::routes())
        .merge(explain::routes());
    let v1 = running.merge(keys::routes()).merge(limits::routes()).merge(users::routes());
    Router::new()
        .nest("/v1", v1)
        .fallback(problem::no_such_path)
        .method_not_allowed_fallback(problem::wrong_method)
        .layer(from_fn_with_state(Arc::clone(shared), guard::operator))
}
