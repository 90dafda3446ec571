//! Advice on settings of a Redis server that may lose tasks, with the commands that change them.
//!
//! `INFO` gives most of the facts; `CONFIG GET`, which the documented user may not call, adds the
//! rest. A fact that the server does not give leads to no advice. A server that is too old is not
//! advised on but refused (`version.rs`).

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use redis::{Cmd, FromRedisValue};

use crate::store::redis::conn::link::MasterLink;
use crate::store::redis::time::{min_clock_ahead_ms, unix_now};
use crate::store::{ServerAdvice, StoreError};
use crate::task::UnixMs;

/// How often the settings are read again over the same connection: an operator may change them at
/// any time.
pub(crate) const ADVICE_REFRESH_INTERVAL: Duration = Duration::from_mins(1);
/// How far a server's clock may differ from this process's without advice.
const MAX_CLOCK_SKEW: Duration = Duration::from_secs(2);

/// The facts that a server gave about itself; those that it did not give are absent.
#[derive(Default)]
struct RedisServerReport {
    server: String,
    /// The fields of `INFO`.
    info: HashMap<String, String>,
    /// The settings of `CONFIG GET`.
    settings: HashMap<String, String>,
    /// By how many milliseconds at least its clock is ahead of ours; negative where it is behind.
    clock_ahead_ms: i64,
}

// === facts to advice ===

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
            "its clock is {:.1} s {side} ours, and the times that this process shows and signs are \
             off by as much: let NTP set both (timedatectl set-ntp true)",
            skew.as_secs_f64()
        );
        Some(ServerAdvice {
            server: self.server.clone(),
            setting: "clock",
            problem,
            commands: Vec::new(),
        })
    }

    /// The value of a setting, or else of the `INFO` field with the same meaning.
    fn setting_or_info(&self, setting: &str, field: &str) -> Option<&str> {
        self.settings.get(setting).or_else(|| self.info.get(field)).map(String::as_str)
    }

    fn advise_setting(&self, setting: &'static str, value: &str, problem: String) -> ServerAdvice {
        let mut commands = vec![format!("CONFIG SET {setting} {value}")];
        // a server that was started without a configuration file cannot rewrite one
        if self.info.get("config_file").is_none_or(|file| !file.is_empty()) {
            commands.push("CONFIG REWRITE".into());
        }
        ServerAdvice { server: self.server.clone(), setting, problem, commands }
    }
}

/// The fields of an `INFO` reply.
fn parse_info(info: &str) -> HashMap<String, String> {
    let pairs = info.lines().filter_map(|line| line.trim_end().split_once(':'));
    pairs.map(|(name, value)| (name.to_owned(), value.to_owned())).collect()
}

// === reading the facts ===

/// What should be changed on the server of `link`.
pub(crate) async fn fetch_server_advice(
    link: &MasterLink,
) -> Result<Vec<ServerAdvice>, StoreError> {
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
    let server_time = time.map(|(seconds, micros)| UnixMs(seconds * 1000 + micros / 1000));
    let ahead = server_time.map_or(0, |time| min_clock_ahead_ms(time, sent, answered));
    let server =
        link.current_connection().await.map(|(server, _)| server.to_string()).unwrap_or_default();
    Ok(RedisServerReport { server, info: parse_info(&info), settings, clock_ahead_ms: ahead }
        .collect_advice())
}

/// The reply to a command; none where the server refuses it.
async fn query_if_permitted<T: FromRedisValue>(
    link: &MasterLink,
    command: &Cmd,
) -> Result<Option<T>, StoreError> {
    let answer = link.send_command_raw(command).await?;
    Ok(answer
        .inspect_err(|error| tracing::debug!(%error, "the redis server does not give its settings"))
        .ok())
}

// === logging ===

/// Logs the advice on `server` that is not in `logged` (server and setting), and removes what no
/// longer applies from it, so that a problem that comes back is logged again.
pub(crate) fn log_new_advice(
    logged: &mut HashSet<(String, &'static str)>,
    server: &str,
    advice: &[ServerAdvice],
) {
    logged.retain(|(of, setting)| {
        of != server || advice.iter().any(|advice| advice.setting == *setting)
    });
    for advice in advice {
        if logged.insert((advice.server.clone(), advice.setting)) {
            tracing::warn!(
                server = advice.server,
                about = advice.setting,
                problem = advice.problem,
                run = advice.commands.join("; "),
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

    fn advice_texts(report: &RedisServerReport) -> Vec<String> {
        report.collect_advice().iter().map(ServerAdvice::to_string).collect()
    }

    #[test]
    fn a_server_with_good_or_unknown_settings_gets_no_advice() {
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
    fn advice_names_the_loss_and_the_commands() {
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
                "h:1: appendonly is no: a restart of Redis loses the tasks since the last \
                 snapshot: CONFIG SET appendonly yes, then CONFIG REWRITE",
                "h:1: appendfsync is no: a power cut loses the tasks of the last half minute \
                 or so: CONFIG SET appendfsync everysec, then CONFIG REWRITE",
            ]
        );
        let without_snapshots =
            advice_texts(&server_report("", &[("appendonly", "no"), ("save", "")]));
        assert!(without_snapshots[0].contains("loses every task"), "{without_snapshots:?}");
    }

    #[test]
    fn info_alone_is_enough_and_a_server_without_a_file_gets_no_rewrite() {
        let advice = server_report(
            "# Server\r\nconfig_file:\r\nmaxmemory_policy:volatile-ttl\r\naof_enabled:0\r\n",
            &[],
        )
        .collect_advice();
        assert_eq!(advice[0].commands, ["CONFIG SET maxmemory-policy noeviction"]);
        assert_eq!(advice[1].commands, ["CONFIG SET appendonly yes"]);
    }

    #[test]
    fn a_clock_skew_of_more_than_two_seconds_is_advised_on() {
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
    fn a_problem_that_is_solved_and_comes_back_is_logged_again() {
        let (mut logged, bad) =
            (HashSet::new(), server_report("", &[("appendonly", "no")]).collect_advice());
        log_new_advice(&mut logged, "h:1", &bad);
        log_new_advice(&mut logged, "h:2", &[]);
        assert_eq!(logged.len(), 1);
        log_new_advice(&mut logged, "h:1", &[]);
        assert!(logged.is_empty());
    }
}
