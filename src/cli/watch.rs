//! The options `--watch` and `--interval`, and the loop that repeats a command with them.
//!
//! Without `--watch` a command fetches and prints once. With it the command repeats until it is
//! interrupted or printing returns an error.

use std::io::{IsTerminal as _, stdout};
use std::time::Duration;

use clap::Args;
use tokio::time::sleep;

use super::exit::{CliError, CliExit};

/// The shortest time between two requests of a command that polls.
pub(super) const MIN_INTERVAL: Duration = Duration::from_millis(100);
/// The escape sequence that clears a terminal and moves the cursor to the top left.
const CLEAR_SCREEN: &str = "\x1b[2J\x1b[H";

/// The arguments of a command that can repeat.
#[derive(Args)]
pub(super) struct WatchArgs {
    /// Repeat until interrupted
    #[arg(long)]
    pub(super) watch: bool,
    /// Time between two repetitions of --watch
    #[arg(
        long,
        value_name = "DURATION",
        default_value = "2s",
        value_parser = humantime::parse_duration
    )]
    pub(super) interval: Duration,
}

/// Fetches and prints a value, once or repeatedly, and returns the exit status of the last print.
/// `print` also gets the error of a fetch, and decides whether it ends the command. A repetition
/// clears the terminal first when `clears_screen` is set.
pub(super) async fn fetch_and_print<T>(
    args: &WatchArgs,
    clears_screen: bool,
    fetch: impl AsyncFn() -> Result<T, CliError>,
    print: impl Fn(Result<T, CliError>) -> Result<CliExit, CliError>,
) -> Result<CliExit, CliError> {
    loop {
        let fetched = fetch().await;
        if args.watch && clears_screen && stdout().is_terminal() {
            print!("{CLEAR_SCREEN}");
        }
        let exit = print(fetched)?;
        if !args.watch {
            return Ok(exit);
        }
        sleep(args.interval.max(MIN_INTERVAL)).await;
    }
}
