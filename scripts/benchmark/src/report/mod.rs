//! Results for readers: the table, the targets, the chart, and their place in the README.

mod chart;
mod readme;
mod table;
mod targets;

pub(crate) use self::{
    readme::{write, write_block},
    targets::smoke,
};

use crate::run::Results;

/// The chart as SVG.
pub(crate) fn chart(results: &Results) -> String {
    chart::draw(results)
}

/// All that is said in words and tables, as Markdown.
pub(crate) fn text(results: &Results) -> String {
    let settings = &results.settings;
    let mut text = format!(
        "Commit {}. {}. One proxy thread each, alone on core 0; load and backend share the others{}. \
         Medians of {} times {} s.\n\n",
        results.commit,
        results.machine,
        if settings.spins {
            " and never sleep, so that no proxy pays for waking them"
        } else {
            ", and sleep when idle"
        },
        settings.rounds,
        settings.measured_seconds,
    );
    text.push_str(&table::figures(results));
    text.push_str(
        "\nCPU is that of the proxy's own process, all threads. Requests/s are what the cores left to load and backend can do at most: \
         compare CPU. Where the second table says ×, it is the median of the rounds' own ratios. nginx and HAProxy only forward; so does *bare hyper*, a forwarder made of hyper that looks at nothing: \
         what hyper itself costs. Envoy checks the key in Wasm; Tollgate checks the key, charges the limit and \
         chooses the backend in Wasm, and counts metrics; it logs warnings, in *call log* a line for each call into a file, with *Redis* its limits are \
         in a Redis on the machine, which shares the core of load and backend, and whose CPU doesn't count.\n",
    );
    text.push_str(&table::versions(results));
    let targets = targets::table(results);
    if !targets.is_empty() {
        text.push('\n');
        text.push_str(&targets);
    }
    text
}
