//! The arguments of `omnidaemon demo`.

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;

/// Start everything there is to see: a sample legacy API, the proxy, workers, and some traffic
#[derive(Args)]
pub(in crate::cli) struct DemoArgs {
    /// The port that clients call; 8000, or what the demo's file says
    #[arg(long, value_name = "PORT")]
    pub(super) port: Option<u16>,
    /// The port of the admin plane; 8001, or what the demo's file says
    #[arg(long, value_name = "PORT")]
    pub(super) admin_port: Option<u16>,
    /// The port of the sample legacy API; 9000, or what the demo's file says
    #[arg(long, value_name = "PORT")]
    pub(super) legacy_port: Option<u16>,
    /// Where the demo keeps its configuration and its tasks
    #[arg(long, value_name = "DIR", default_value = "data/demo")]
    pub(super) dir: PathBuf,
    /// End by itself after this long, such as 30s
    #[arg(long = "for", value_name = "DURATION", value_parser = humantime::parse_duration)]
    pub(super) time: Option<Duration>,
}
