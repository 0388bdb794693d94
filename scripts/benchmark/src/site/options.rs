//! What every look at real gates is told: which gate, where it may write, and where its report goes.

use std::path::PathBuf;

use clap::{Args, ValueEnum};
use tokio::runtime;

use super::Report;
use crate::failure::Failure;

#[derive(Args, Debug)]
pub(crate) struct Options {
    /// The gate.
    #[arg(long)]
    pub(crate) tollgate: PathBuf,
    /// For configurations, logs and state.
    #[arg(long)]
    folder: PathBuf,
    /// What is measured, for the head of the report.
    #[arg(long, default_value = "unknown")]
    commit: String,
    /// Little of it, and nothing is promised of times. Without sections: a few of them.
    #[arg(long)]
    pub(crate) smoke: bool,
    /// The page whose block of figures is replaced.
    #[arg(long, conflicts_with = "smoke")]
    readme: Option<PathBuf>,
}

impl Options {
    /// The folder, which is made: as configurations name it, which lie elsewhere than where this runs.
    pub(crate) fn folder(&self) -> Result<PathBuf, Failure> {
        std::fs::create_dir_all(&self.folder)?;
        Ok(self.folder.canonicalize()?)
    }

    /// The sections that were named; without any, these few of a short run, or all.
    pub(crate) fn sections<S: ValueEnum + Clone>(&self, named: &[S], few: &[S]) -> Vec<S> {
        match (named, self.smoke) {
            ([], true) => few.to_vec(),
            ([], false) => S::value_variants().to_vec(),
            (named, _) => named.to_vec(),
        }
    }

    /// Ends the report, which goes into the page's block of this name if one was named.
    pub(crate) fn end(&self, report: Report, block: &str) -> Result<(), Failure> {
        report.end(self.readme.as_deref(), block, &self.commit)
    }
}

/// Does it on two threads.
pub(crate) fn block_on(work: impl Future<Output = Result<(), Failure>>) -> Result<(), Failure> {
    runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?.block_on(work)
}
