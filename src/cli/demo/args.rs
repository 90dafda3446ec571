//! The arguments of `omnidaemon demo`.

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;

/// Run a demo: a sample legacy API, the proxy, workers, and some traffic
#[derive(Args)]
pub(in crate::cli) struct DemoArgs {
    /// The port that clients call; by default the one in the demo's file, 8000 at first
    #[arg(long, value_name = "PORT")]
    pub(super) port: Option<u16>,
    /// The port of the admin API; by default the one in the demo's file, 8001 at first
    #[arg(long, value_name = "PORT")]
    pub(super) admin_port: Option<u16>,
    /// The port of the sample legacy API; by default the one in the demo's file, 9000 at first
    #[arg(long, value_name = "PORT")]
    pub(super) legacy_port: Option<u16>,
    /// The directory of the demo's configuration and tasks
    #[arg(long, value_name = "DIR", default_value = "data/demo")]
    pub(super) dir: PathBuf,
    /// End after this time, such as 30s
    #[arg(long = "for", value_name = "DURATION", value_parser = humantime::parse_duration)]
    pub(super) time: Option<Duration>,
}
