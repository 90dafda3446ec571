//! Whether a Redis server is set up to keep tasks, and what to type where it is not.
//!
//! A server that is too old is refused at connect. All else is advice: looked at for each new
//! connection and once a minute, and logged once. `INFO` tells the most; `CONFIG GET`, which
//! the documented user may not call, adds the rest. What a server does not tell is not advised on.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use redis::{Cmd, FromRedisValue, Value, from_redis_value};
use tokio::time::{Instant, MissedTickBehavior, interval};

use super::link::{MasterLink, RedisConnection};
use super::{RedisStore, error, unix_now};
use crate::store::{ServerAdvice, StoreError};
use crate::task::UnixMs;

/// How often new connections are looked for.
const NEW_CONNECTION_CHECK_INTERVAL: Duration = Duration::from_millis(500);
/// How often a server is asked again over the same connection: settings are changed without one's
/// leave.
const ADVICE_REFRESH_INTERVAL: Duration = Duration::from_mins(1);
/// How far a server's clock may be from ours.
const MAX_CLOCK_SKEW: Duration = Duration::from_secs(2);
/// The oldest release that has the commands of our scripts.
const OLDEST_SUPPORTED_VERSION: (u32, u32) = (7, 0);

/// What a server said of itself, as far as it did.
#[derive(Default)]
struct RedisServerReport {
    server: String,
    /// Of `INFO`.
    info: HashMap<String, String>,
    /// Of `CONFIG GET`.
    settings: HashMap<String, String>,
    /// Milliseconds that its clock is ahead of ours at least; negative where it is behind.
    clock_ahead_ms: i64,
}

// === the judging ===

impl RedisServerReport {
    fn collect_advice(&self) -> Vec<ServerAdvice> {
        [
            self.check_eviction_policy(),
            self.check_append_only_file(),
            self.check_fsync_mode(),
            self.check_clock_skew(),
        ]
        .into_iter()
        .flatten()
        .collect()
    }

    fn check_eviction_policy(&self) -> Option<ServerAdvice> {
        let policy = self
            .setting_or_info("maxmemory-policy", "maxmemory_policy")
            .filter(|policy| *policy != "noeviction")?;
        let problem =
            format!("maxmemory-policy {policy} deletes tasks and results when memory runs out");
        Some(self.advise_setting("maxmemory-policy", "noeviction", problem))
    }

    fn check_append_only_file(&self) -> Option<ServerAdvice> {
        self.setting_or_info("appendonly", "aof_enabled")
            .filter(|enabled| matches!(*enabled, "no" | "0"))?;
        let lost = match self.settings.get("save").map(String::as_str) {
            Some("") => "every task",
            Some(_) => "the tasks since the last snapshot",
            None => {
                "the tasks since the last snapshot, if there are snapshots, and else every task"
            }
        };
        Some(self.advise_setting(
            "appendonly",
            "yes",
            format!("appendonly is no: a restart of Redis loses {lost}"),
        ))
    }

    fn check_fsync_mode(&self) -> Option<ServerAdvice> {
        self.settings.get("appendfsync").filter(|mode| *mode == "no")?;
        let problem =
            "appendfsync is no: a power cut loses the tasks of the last half minute or so";
        Some(self.advise_setting("appendfsync", "everysec", problem.into()))
    }

    fn check_clock_skew(&self) -> Option<ServerAdvice> {
        let skew = Duration::from_millis(self.clock_ahead_ms.unsigned_abs());
        if skew <= MAX_CLOCK_SKEW {
            return None;
        }
        let side = if self.clock_ahead_ms > 0 { "ahead of" } else { "behind" };
        let problem = format!(
            "its clock is {:.1} s {side} ours, and the times that this process shows and signs are off by as much: \
             let NTP set both (timedatectl set-ntp true)",
            skew.as_secs_f64()
        );
        Some(ServerAdvice {
            server: self.server.clone(),
            setting: "clock",
            problem,
            commands: Vec::new(),
        })
    }

    /// A setting, or the field of `INFO` that says the same.
    fn setting_or_info(&self, setting: &str, field: &str) -> Option<&str> {
        self.settings.get(setting).or_else(|| self.info.get(field)).map(String::as_str)
    }

    fn advise_setting(&self, setting: &'static str, value: &str, problem: String) -> ServerAdvice {
        let mut run = vec![format!("CONFIG SET {setting} {value}")];
        // a server that was started without a file has nothing to write to
        if self.info.get("config_file").is_none_or(|file| !file.is_empty()) {
            run.push("CONFIG REWRITE".into());
        }
        ServerAdvice { server: self.server.clone(), setting, problem, commands: run }
    }
}

/// How far ahead a clock is that said `told` between `sent` and `answered`, in milliseconds: the
/// least that it can be, since the question may have been answered at any time in between.
pub(super) fn min_clock_ahead_ms(told: UnixMs, sent: UnixMs, answered: UnixMs) -> i64 {
    let since = |earlier: UnixMs| told.0.wrapping_sub(earlier.0).cast_signed();
    if told > answered { since(answered) } else { since(sent).min(0) }
}

/// `INFO`, taken apart.
fn parse_info(info: &str) -> HashMap<String, String> {
    let pairs = info.lines().filter_map(|line| line.trim_end().split_once(':'));
    pairs.map(|(name, value)| (name.to_owned(), value.to_owned())).collect()
}

/// Whether a version such as `7.0.15` is too old; one that is none is not.
fn is_version_too_old(version: &str) -> bool {
    let mut numbers = version.split('.').map_while(|number| number.parse::<u32>().ok());
    numbers
        .next()
        .is_some_and(|major| (major, numbers.next().unwrap_or_default()) < OLDEST_SUPPORTED_VERSION)
}

// === the asking ===

/// Refuses a server whose version is too old. Asked with what each user may call that can connect
/// at all.
pub(super) async fn check_server_version(
    connection: &mut RedisConnection,
    server: &str,
) -> Result<(), StoreError> {
    let mut hello =
        match connection.send_query::<HashMap<String, Value>>(&redis::cmd("HELLO")).await {
            Ok(hello) => hello,
            Err(error) if error.is_unrecoverable_error() => {
                return Err(StoreError::Unreachable(error::format_redis_error(&error)));
            }
            Err(_) => return Ok(()),
        };
    let version =
        hello.remove("version").and_then(|version| from_redis_value::<String>(version).ok());
    match version {
        Some(version) if is_version_too_old(&version) => {
            Err(version_too_old_error(server, &version))
        }
        _ => Ok(()),
    }
}

fn version_too_old_error(server: &str, version: &str) -> StoreError {
    let (major, minor) = OLDEST_SUPPORTED_VERSION;
    let way_out = "upgrade it, or set store.url to another server";
    StoreError::Unreachable(format!(
        "{server} is Redis {version}, and {major}.{minor} is the oldest served: {way_out}"
    ))
}

/// What is to be changed on the server behind `link`.
async fn fetch_server_advice(link: &MasterLink) -> Result<Vec<ServerAdvice>, StoreError> {
    let info = redis::cmd("INFO").arg("server").arg("memory").arg("persistence").take();
    let info = query_if_permitted::<String>(link, &info).await?.unwrap_or_default();
    let settings = redis::cmd("CONFIG")
        .arg("GET")
        .arg(&["maxmemory-policy", "appendonly", "appendfsync", "save"])
        .take();
    let settings = query_if_permitted(link, &settings).await?.unwrap_or_default();
    let sent = unix_now();
    let time = query_if_permitted::<(u64, u64)>(link, &redis::cmd("TIME")).await?;
    let answered = unix_now();
    let told = time.map(|(seconds, micros)| UnixMs(seconds * 1000 + micros / 1000));
    let ahead = told.map_or(0, |told| min_clock_ahead_ms(told, sent, answered));
    let server =
        link.current_connection().await.map(|(server, _)| server.to_string()).unwrap_or_default();
    Ok(RedisServerReport { server, info: parse_info(&info), settings, clock_ahead_ms: ahead }
        .collect_advice())
}

/// What a server answers; nothing where it refuses to.
async fn query_if_permitted<T: FromRedisValue>(
    link: &MasterLink,
    command: &Cmd,
) -> Result<Option<T>, StoreError> {
    let answer = link.send_command_raw(command).await?;
    Ok(answer
        .inspect_err(|error| tracing::debug!(%error, "the redis server does not tell its settings"))
        .ok())
}

// === the telling ===

impl RedisStore {
    /// What is to be changed on the servers of all partitions, each thing once.
    pub(super) async fn advice_all_partitions(&self) -> Result<Vec<ServerAdvice>, StoreError> {
        let mut all: Vec<ServerAdvice> = Vec::new();
        for partition in &self.partitions {
            for advice in fetch_server_advice(&partition.link).await? {
                if !all
                    .iter()
                    .any(|known| (&known.server, known.setting) == (&advice.server, advice.setting))
                {
                    all.push(advice);
                }
            }
        }
        Ok(all)
    }

    /// Logs advice for each connection that is made anew, and what changes meanwhile.
    pub(super) async fn run_advice_logging(&self) {
        let mut ticks = interval(NEW_CONNECTION_CHECK_INTERVAL);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut asked = vec![None; self.partitions.len()];
        let mut logged = HashSet::new();
        loop {
            ticks.tick().await;
            for (partition, asked) in self.partitions.iter().zip(&mut asked) {
                let Some((server, made)) = partition.link.current_connection().await else {
                    continue;
                };
                if asked.is_some_and(|(of, at): (_, Instant)| {
                    of == made && at.elapsed() < ADVICE_REFRESH_INTERVAL
                }) {
                    continue;
                }
                if let Ok(advice) = fetch_server_advice(&partition.link).await {
                    *asked = Some((made, Instant::now()));
                    log_new_advice(&mut logged, &server, &advice);
                }
            }
        }
    }
}

/// Logs what is new, and forgets what is mended, so that it is said again when it comes back.
fn log_new_advice(
    logged: &mut HashSet<(String, &'static str)>,
    server: &str,
    advice: &[ServerAdvice],
) {
    logged
        .retain(|(of, about)| of != server || advice.iter().any(|advice| advice.setting == *about));
    for advice in advice {
        if logged.insert((advice.server.clone(), advice.setting)) {
            let ServerAdvice { server, setting: about, problem, commands: run } = advice;
            tracing::warn!(
                server,
                about,
                problem,
                run = run.join("; "),
                "the redis server is not set up to keep tasks"
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn server_report(info: &str, settings: &[(&str, &str)]) -> RedisServerReport {
        let settings =
            settings.iter().map(|(name, value)| ((*name).into(), (*value).into())).collect();
        RedisServerReport {
            server: "h:1".into(),
            info: parse_info(info),
            settings,
            clock_ahead_ms: 0,
        }
    }

    fn advice_texts(said: &RedisServerReport) -> Vec<String> {
        said.collect_advice().iter().map(ServerAdvice::to_string).collect()
    }

    #[test]
    fn a_server_that_is_set_up_well_or_says_nothing_gets_no_advice() {
        let well = [
            ("maxmemory-policy", "noeviction"),
            ("appendonly", "yes"),
            ("appendfsync", "everysec"),
            ("save", ""),
        ];
        assert_eq!(advice_texts(&server_report("", &well)), [""; 0]);
        assert_eq!(
            advice_texts(&server_report("maxmemory_policy:noeviction\r\naof_enabled:1\r\n", &[])),
            [""; 0]
        );
        assert_eq!(advice_texts(&server_report("", &[])), [""; 0]);
    }

    #[test]
    fn advice_says_what_can_be_lost_and_what_to_type() {
        let badly = [
            ("maxmemory-policy", "allkeys-lru"),
            ("appendonly", "no"),
            ("appendfsync", "no"),
            ("save", "60 1"),
        ];
        let advice = advice_texts(&server_report("config_file:/etc/redis.conf\r\n", &badly));
        assert_eq!(
            advice,
            [
                "h:1: maxmemory-policy allkeys-lru deletes tasks and results when memory runs out: \
                 CONFIG SET maxmemory-policy noeviction, then CONFIG REWRITE",
                "h:1: appendonly is no: a restart of Redis loses the tasks since the last snapshot: \
                 CONFIG SET appendonly yes, then CONFIG REWRITE",
                "h:1: appendfsync is no: a power cut loses the tasks of the last half minute or so: \
                 CONFIG SET appendfsync everysec, then CONFIG REWRITE",
            ]
        );
        let without_snapshots =
            advice_texts(&server_report("", &[("appendonly", "no"), ("save", "")]));
        assert!(without_snapshots[0].contains("loses every task"), "{without_snapshots:?}");
    }

    #[test]
    fn info_alone_is_enough_for_what_it_tells_and_a_server_without_a_file_has_none_to_rewrite() {
        let advice = server_report(
            "# Server\r\nconfig_file:\r\nmaxmemory_policy:volatile-ttl\r\naof_enabled:0\r\n",
            &[],
        )
        .collect_advice();
        assert_eq!(advice[0].commands, ["CONFIG SET maxmemory-policy noeviction"]);
        assert_eq!(advice[1].commands, ["CONFIG SET appendonly yes"]);
    }

    #[test]
    fn a_clock_is_off_only_by_what_the_round_trip_does_not_explain() {
        let ahead =
            |told, sent, answered| min_clock_ahead_ms(UnixMs(told), UnixMs(sent), UnixMs(answered));
        assert_eq!([ahead(150, 100, 200), ahead(100, 100, 200), ahead(200, 100, 200)], [0; 3]);
        assert_eq!((ahead(5000, 100, 200), ahead(100, 5000, 6000)), (4800, -4900));
        let off = |ahead| {
            advice_texts(&RedisServerReport { clock_ahead_ms: ahead, ..server_report("", &[]) })
        };
        assert_eq!((off(2000), off(-2000)), (vec![], vec![]));
        assert!(
            off(2001)[0].contains("2.0 s ahead of ours")
                && off(-61_000)[0].contains("61.0 s behind ours")
        );
    }

    #[test]
    fn releases_before_7_are_too_old() {
        for (version, old) in
            [("6.2.14", true), ("7.0.0", false), ("7", false), ("10.1", false), ("unknown", false)]
        {
            assert_eq!(is_version_too_old(version), old, "{version}");
        }
    }

    #[test]
    fn what_is_mended_and_comes_back_is_logged_again() {
        let (mut logged, bad) =
            (HashSet::new(), server_report("", &[("appendonly", "no")]).collect_advice());
        log_new_advice(&mut logged, "h:1", &bad);
        log_new_advice(&mut logged, "h:2", &[]);
        assert_eq!(logged.len(), 1);
        log_new_advice(&mut logged, "h:1", &[]);
        assert!(logged.is_empty());
    }
}
