//! `omnidaemon demo`: a legacy API, the proxy with workers, and clients in one process, on the
//! embedded store. It needs no other program and is the first command for a new user to run.
//!
//! ```text
//! setup.rs     the demo's directory, configuration and ports
//! legacy.rs    a sample legacy API
//! traffic.rs   clients that call the proxy
//! display.rs   the introduction, the status line and the final summary
//! ```
//!
//! The proxy is the same as that of `serve`, with a configuration file that the user can edit.

mod args;
mod display;
mod legacy;
mod setup;
mod traffic;

use std::time::Duration;

use tokio_util::sync::CancellationToken;

pub(super) use self::args::DemoArgs;
use self::setup::DemoSetup;
use self::traffic::PathLatencies;
use super::exit::{CliError, CliExit};
use super::global::GlobalArgs;
use super::serve::shutdown_on_signals;
use crate::app::{App, AppError};
use crate::store::StoreError;
use crate::worker::GuardCommand;

pub(super) async fn run(args: DemoArgs, _: &GlobalArgs) -> Result<CliExit, CliError> {
    let DemoSetup { legacy_listener: legacy, loaded, config_file: file, env } =
        setup::prepare_demo(&args).await?;
    let shutdown = shutdown_on_signals(None)?;
    let bound = App::new(loaded)
        .with_config_file(file.clone(), env)
        .with_program_guard(GuardCommand::from_current_executable()?)
        .bind()
        .await
        .map_err(explain_lock_error)?;
    let addresses = display::DemoAddresses {
        legacy: legacy.local_addr()?,
        data: bound.data_address(),
        admin: bound.admin_address()?,
    };
    display::print_welcome(&addresses, &args.dir, &file);

    let (latencies, metrics) = (PathLatencies::default(), bound.metrics());
    // The legacy API ends last: requests that are being drained still need it.
    let stop_legacy = CancellationToken::new();
    let legacy = tokio::spawn(legacy::run(legacy, stop_legacy.clone()));
    let traffic = traffic::run(addresses.data, latencies.clone(), shutdown.clone());
    let progress = display::report_progress(&file, &metrics, &latencies, shutdown.clone());
    let proxy = async {
        let result = bound.run(shutdown.clone()).await;
        shutdown.cancel();
        result
    };
    let timer = shutdown_after(args.time, &shutdown);
    let (result, duration, (), ()) = tokio::join!(proxy, progress, traffic, timer);
    stop_legacy.cancel();
    let _ = legacy.await;
    result?;
    display::print_summary(duration, &metrics, &args.dir);
    Ok(CliExit::Ok)
}

async fn shutdown_after(time: Option<Duration>, shutdown: &CancellationToken) {
    let Some(time) = time else { return };
    if shutdown.run_until_cancelled(tokio::time::sleep(time)).await.is_some() {
        shutdown.cancel();
    }
}

/// For a store that another process has locked, an error that names the options of the demo.
fn explain_lock_error(error: AppError) -> CliError {
    match error {
        AppError::Store(StoreError::Locked { path, pid }) => CliError::Failed(format!(
            "{path} is in use by process {pid}, probably another demo: stop it, or give this one \
                a directory and ports \
             of its own with --dir, --port, --admin-port and --legacy-port"
        )),
        other => other.into(),
    }
}
