//! `tollgate demo`.

use super::output::{self, Failure};
use crate::{
    app::{self, demo::Demo},
    clock::Clock,
    config::Config,
};

pub(super) async fn demo(config: Config) -> Result<(), Failure> {
    let demo = Demo::start(config, Clock::system()).await.map_err(|error| Failure::failed(error.to_string()))?;
    let (gate, key) = (demo.app().data_plane(), demo.key());
    output::result(&format!("key: {key}"));
    output::note(&format!(
        "\ntollgate serves at http://{gate} before two simulated Ollama servers, sim-1 and sim-2. Try:\n\n\
         curl http://{gate}/api/chat -H 'Authorization: Bearer {key}' \\\n     \
         -d '{{\"model\":\"llama3\",\"messages\":[{{\"role\":\"user\",\"content\":\"hello\"}}]}}'\n\n\
         Numbers: http://{}/metrics. Stop with ctrl-c; the key and its state go with the demo.\n",
        demo.app().admin(),
    ));
    app::asked_to_stop().await.map_err(|error| Failure::failed(format!("no signals can be received: {error}")))?;
    demo.stop().await;
    Ok(())
}
