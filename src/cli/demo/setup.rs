//! The demo's directory, configuration and ports.
//!
//! The configuration file is written when there is none, and is not changed afterwards, so that the
//! user can edit it. Ports of the command line override it. The environment does not: a variable
//! such as `REDIS_URL`, which is set for another installation, must not affect the demo.

use std::fs;
use std::io::ErrorKind;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};

use tokio::net::TcpListener;

use super::args::DemoArgs;
use crate::cli::exit::CliError;
use crate::config::{self, EnvVars, LoadedConfig};

const CONFIG_TEMPLATE: &str = include_str!("omnidaemon.yaml");
const DEFAULT_DATA_PORT: u16 = 8000;
const DEFAULT_ADMIN_PORT: u16 = 8001;
const DEFAULT_LEGACY_PORT: u16 = 9000;

/// The prepared parts of a demo.
pub(super) struct DemoSetup {
    /// The bound listener of the sample legacy API.
    pub(super) legacy_listener: TcpListener,
    /// The configuration.
    pub(super) loaded: LoadedConfig,
    /// The configuration file.
    pub(super) config_file: PathBuf,
    /// The variables that the file is loaded and reloaded with: only the ports of the command line.
    pub(super) env: EnvVars,
}

/// Writes the configuration file if it is missing, and loads it. Returns an error that names the
/// port and its option when a port is in use.
pub(super) async fn prepare_demo(args: &DemoArgs) -> Result<DemoSetup, CliError> {
    let file = args.dir.join("omnidaemon.yaml");
    let mut env = EnvVars::new();
    for (name, port) in
        [("OMNIDAEMON__PROXY__LISTEN", args.port), ("OMNIDAEMON__ADMIN__LISTEN", args.admin_port)]
    {
        env.extend(port.map(|port| (name.to_owned(), loopback_address(port).to_string())));
    }
    let port = match args.legacy_port {
        Some(port) => port,
        None if file.exists() => {
            let loaded = config::load_file(&file, &env)?;
            loaded.config.upstream.urls.first().map_or(DEFAULT_LEGACY_PORT, |url| url.port)
        }
        None => DEFAULT_LEGACY_PORT,
    };
    let legacy = TcpListener::bind(loopback_address(port))
        .await
        .map_err(|error| bind_error(loopback_address(port), "--legacy-port", error))?;
    let legacy_url = format!("http://{}", legacy.local_addr()?);
    if !file.exists() {
        write_config(&file, args, &legacy_url)?;
    }
    if args.legacy_port.is_some() {
        env.insert("OMNIDAEMON__UPSTREAM__URL".into(), legacy_url);
    }
    let loaded = config::load_file(&file, &env)?;
    // The proxy's threads share the data port with SO_REUSEPORT, so a second demo could bind it as
    // well. This bind without that option fails when another process has the port.
    let listens =
        [(loaded.config.proxy.listen, "--port"), (loaded.config.admin.listen, "--admin-port")];
    for (address, flag) in listens.into_iter().filter(|(address, _)| address.port() != 0) {
        std::net::TcpListener::bind(address).map_err(|error| bind_error(address, flag, error))?;
    }
    Ok(DemoSetup { legacy_listener: legacy, loaded, config_file: file, env })
}

fn loopback_address(port: u16) -> SocketAddr {
    (Ipv4Addr::LOCALHOST, port).into()
}

fn write_config(file: &Path, args: &DemoArgs, legacy: &str) -> Result<(), CliError> {
    let failed =
        |error| CliError::File { action: format!("cannot write {}", file.display()), error };
    fs::create_dir_all(&args.dir).map_err(failed)?;
    let text = CONFIG_TEMPLATE
        .replace("<data>", &loopback_address(args.port.unwrap_or(DEFAULT_DATA_PORT)).to_string())
        .replace(
            "<admin>",
            &loopback_address(args.admin_port.unwrap_or(DEFAULT_ADMIN_PORT)).to_string(),
        )
        .replace("<legacy>", legacy)
        .replace(
            "<store>",
            &quote_yaml(&format!("sqlite:{}", args.dir.join("omnidaemon.db").display())),
        );
    fs::write(file, text).map_err(failed)
}

/// `text` as a quoted YAML scalar, with `$` doubled so that no reference in it is expanded.
fn quote_yaml(text: &str) -> String {
    serde_json::Value::from(text.replace('$', "$$")).to_string()
}

fn bind_error(address: SocketAddr, flag: &str, error: std::io::Error) -> CliError {
    if error.kind() != ErrorKind::AddrInUse {
        return CliError::File {
            action: format!("cannot listen on {address}; {flag} N selects another port"),
            error,
        };
    }
    let port = address.port();
    CliError::Failed(format!(
        "port {port} is in use, perhaps by another demo: stop it, or select another port with \
            `{flag} N`; \
         `ss -ltnp 'sport = :{port}'` shows the process"
    ))
}

/// The number, from 1, and the text of the file's line that sets `percent`.
pub(super) fn find_percent_line(text: &str) -> Option<(usize, &str)> {
    let lines = text.lines().map(|line| line.split('#').next().unwrap_or_default().trim());
    lines
        .enumerate()
        .find(|(_, line)| line.starts_with("percent:"))
        .map(|(at, line)| (at + 1, line))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn demo_args(dir: &Path) -> DemoArgs {
        let zero = Some(0);
        DemoArgs {
            port: zero,
            admin_port: zero,
            legacy_port: zero,
            dir: dir.to_owned(),
            time: None,
        }
    }

    #[tokio::test]
    async fn the_file_is_written_once_and_then_left_to_the_user() {
        let dir = tempfile::tempdir().expect("a directory");
        let dir = dir.path().join("a $HOME \"dir\"");
        let setup = prepare_demo(&demo_args(&dir)).await.expect("all is free");
        let percent =
            |setup: &DemoSetup| setup.loaded.config.routes[0].rollout.percent.basis_points();
        assert_eq!(percent(&setup), 1000);
        assert_eq!(setup.loaded.config.routes[0].rollout.mode, config::RolloutMode::Manual);
        assert_eq!(
            setup.loaded.config.upstream.urls[0].port,
            setup.legacy_listener.local_addr().expect("bound").port()
        );
        let store = config::StoreUrl::Sqlite(dir.join("omnidaemon.db"));
        assert_eq!(setup.loaded.config.store.url, store);

        let text = fs::read_to_string(&setup.config_file).expect("it is there");
        let (line, found) = find_percent_line(&text).expect("it has a percent");
        assert_eq!(found, "percent: 10");
        assert!(text.lines().nth(line - 1).is_some_and(|line| line.contains("percent: 10")));
        fs::write(&setup.config_file, text.replace("percent: 10", "percent: 35"))
            .expect("it can be edited");
        drop(setup);
        assert_eq!(percent(&prepare_demo(&demo_args(&dir)).await.expect("all is free")), 3500);
    }

    #[tokio::test]
    async fn a_busy_port_is_named_with_its_option() {
        let taken = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
        let port = taken.local_addr().expect("bound").port();
        let dir = tempfile::tempdir().expect("a directory");
        let busy = [
            (DemoArgs { port: Some(port), ..demo_args(&dir.path().join("a")) }, "--port"),
            (
                DemoArgs { admin_port: Some(port), ..demo_args(&dir.path().join("b")) },
                "--admin-port",
            ),
            (
                DemoArgs { legacy_port: Some(port), ..demo_args(&dir.path().join("c")) },
                "--legacy-port",
            ),
        ];
        for (args, flag) in busy {
            let error = prepare_demo(&args).await.err().expect("the port is taken").to_string();
            assert!(
                error.contains(&port.to_string()) && error.contains(&format!("`{flag} N`")),
                "{error}"
            );
        }
    }
}
