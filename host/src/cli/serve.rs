//! `tollgate serve`.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use super::output::Failure;
use crate::{
    app::{App, Signals, StartError},
    clock::Clock,
    config::Config,
    wire::causes::causes,
};

pub(super) async fn serve(config: Config) -> Result<(), Failure> {
    allow_more_sockets();
    let app = App::start(config, Clock::system()).await.map_err(|error| failure(&error))?;
    app.run(&mut signals()?).await;
    Ok(())
}

/// The signals that end or steer a gate.
pub(super) fn signals() -> Result<Signals, Failure> {
    Signals::listen().map_err(|error| Failure::failed(format!("no signals can be received: {error}")))
}

/// As many open sockets as the system lets this process have: the usual soft limit of 1,024 is for other programs.
fn allow_more_sockets() {
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit { current: limit.maximum, maximum: limit.maximum };
    if limit.current != limit.maximum
        && let Err(error) = setrlimit(Resource::Nofile, raised)
    {
        tracing::warn!(%error, "the limit of open files could not be raised");
    }
}

pub(super) fn failure(error: &StartError) -> Failure {
    let text = causes(error);
    if error.is_configuration() { Failure::configuration(text) } else { Failure::failed(text) }
}
