//! `tollgate demo`.

use super::{
    output::{self, Failure},
    serve::{failure, signals},
};
use crate::{
    app::demo::{Demo, DemoError},
    clock::Clock,
    config::Config,
    wire::causes::causes,
};

pub(super) async fn demo(config: Config) -> Result<(), Failure> {
    let demo = Demo::start(config, Clock::system()).await.map_err(|error| match &error {
        DemoError::Start(error) => failure(error),
        DemoError::Simulated(_) | DemoError::Key(_) => Failure::failed(causes(&error)),
    })?;
    let (gate, key) = (demo.app().data_plane(), demo.key());
    output::result(&format!("key: {key}"));
    output::note(&format!(
        "\ntollgate serves at http://{gate} before two simulated Ollama servers, sim-1 and sim-2. Try:\n\n\
         curl http://{gate}/api/chat -H 'Authorization: Bearer {key}' \\\n     \
         -d '{{\"model\":\"llama3\",\"messages\":[{{\"role\":\"user\",\"content\":\"hello\"}}]}}'\n\n\
         Numbers: http://{}/metrics. Stop with ctrl-c; the key and its state go with the demo.\n",
        demo.app().admin(),
    ));
    demo.app().run(&mut signals()?).await;
    demo.stop().await;
    Ok(())
}
