//! The Lua scripts of the store, and how they are called.
//!
//! Each script is a file in `scripts/` that begins with a description and with a header of its
//! keys and arguments (see `compose.rs`). A call is one round trip: the server is asked by
//! the digest of the script, and gets its whole source the first time that it does not know it.
//!
//! A call pushes every key and argument by its name. Debug builds compare the names with the
//! header, in order; release builds do not look at them.
//!
//! What the scripts share is in `prelude.lua`. A script is sent with only what it uses of that:
//! the server makes each function anew at every call, and all of them together cost about as much
//! as a small script itself.

use std::sync::LazyLock;

use redis::{
    Arg, Cmd, ErrorKind, FromRedisValue, ServerErrorKind, ToRedisArgs, Value, from_redis_value,
};

use crate::store::redis::conn::error;
use crate::store::redis::conn::link::MasterLink;
use crate::store::redis::script::compose::ComposedSource;
use crate::store::redis::script::parameters::{ParameterCursor, ParameterList};
use crate::store::{EVIDENCE_RETENTION, StoreError};
use crate::task::DURATION_BUCKET_BOUNDS;

/// A script, with what it uses of the prelude put before it.
pub(crate) struct LuaScript(LazyLock<ComposedScript>);

struct ComposedScript {
    name: &'static str,
    source: String,
    digest: String,
    keys: ParameterList,
    args: ParameterList,
}

macro_rules! scripts {
    ($($(#[$doc:meta])* $name:ident = $file:literal;)+) => {
        $(
            $(#[$doc])*
            pub(crate) static $name: LuaScript = LuaScript(LazyLock::new(|| {
                ComposedScript::from_source($file, include_str!(concat!("../scripts/", $file)))
            }));
        )+

        #[cfg(test)]
        const ALL_SCRIPTS: &[(&LuaScript, &str)] =
            &[$((&$name, include_str!(concat!("../scripts/", $file)))),+];
    };
}

scripts! {
    ENQUEUE_TASKS = "enqueue_tasks.lua";
    LEASE_TASKS = "lease_tasks.lua";
    RECOVER_LEASES = "recover_leases.lua";
    FINISH_TASKS = "finish_tasks.lua";
    REJECT_ENTRY = "reject_entry.lua";
    REQUEUE_TASK = "requeue_task.lua";
    RENEW_LEASES = "renew_leases.lua";
    SCAN_EXPIRED_LEASES = "scan_expired_leases.lua";
    REMOVE_IDLE_CONSUMERS = "remove_idle_consumers.lua";
    CANCEL_TASK = "cancel_task.lua";
    READ_TASK = "read_task.lua";
    CHECK_ENDED = "check_ended.lua";
    READ_QUEUE_DEPTHS = "read_queue_depths.lua";
    READ_QUEUE_CONSUMERS = "read_queue_consumers.lua";
    WRITE_HEARTBEAT = "write_heartbeat.lua";
    READ_HEARTBEATS = "read_heartbeats.lua";
    SAVE_ROLLOUT = "save_rollout.lua";
    LIST_ENTRY_HOLDERS = "list_entry_holders.lua";
    TRIM_STREAM = "trim_stream.lua";
    LIST_DEAD_LETTERS = "list_dead_letters.lua";
    FIND_DEAD_LETTER = "find_dead_letter.lua";
    REPROCESS_DEAD_LETTER = "reprocess_dead_letter.lua";
    SCHEDULE_TASK = "schedule_task.lua";
    PROMOTE_DUE_TASKS = "promote_due_tasks.lua";
    CLAIM_DUE_DELIVERIES = "claim_due_deliveries.lua";
    SETTLE_DELIVERY = "settle_delivery.lua";
    CLAIM_IDEMPOTENCY_KEY = "claim_idempotency_key.lua";
    CONCLUDE_CLAIM = "conclude_claim.lua";
    ABANDON_CLAIM = "abandon_claim.lua";
    RECORD_PROGRESS = "record_progress.lua";
    READ_STATUSES = "read_statuses.lua";
    LIST_UNFINISHED_TASKS = "list_unfinished_tasks.lua";
    READ_RESULT_TAILS = "read_result_tails.lua";
    SCAN_EXTERNAL_TASKS = "scan_external_tasks.lua";
    RECONCILE_EXTERNAL = "reconcile_external.lua";
    REGISTER_AGENT = "register_agent.lua";
    APPEND_AGENT_EVENTS = "append_agent_events.lua";
    FIND_TRIMMED_TASKS = "find_trimmed_tasks.lua";
    SYNC_REPLICA_AND_ELECT_LEADER = "sync_replica_and_elect_leader.lua";
    RESIGN_REPLICA = "resign_replica.lua";
    READ_EVIDENCE = "read_evidence.lua";
    RECORD_CALLERS = "record_callers.lua";
    READ_CALLERS = "read_callers.lua";
}

/// A key and its name in the header of the script.
pub(crate) type NamedKey = (&'static str, String);

/// A call of a script: all keys first, then its arguments.
pub(crate) struct ScriptCall {
    script: &'static LuaScript,
    command: Cmd,
    next_arg: ParameterCursor,
}

// === impl LuaScript ===

impl LuaScript {
    /// Starts a call with its keys, each with its name.
    pub(crate) fn call_with_keys<K: ToRedisArgs>(
        &'static self,
        keys: &[(&'static str, K)],
    ) -> ScriptCall {
        let mut command = redis::cmd("EVALSHA");
        command.arg(self.0.digest.as_str()).arg(keys.len());
        for (_, key) in keys {
            command.arg(key);
        }
        if cfg!(debug_assertions) {
            self.0.check_key_names(keys.iter().map(|(name, _)| *name));
        }
        ScriptCall { script: self, command, next_arg: ParameterCursor::default() }
    }
}

// === impl ComposedScript ===

impl ComposedScript {
    fn from_source(name: &'static str, script: &'static str) -> Self {
        // the tests compose every script
        let ComposedSource { lua, keys, args } =
            ComposedSource::compose(&render_constants(), script)
                .unwrap_or_else(|problem| panic!("{name}: {problem}"));
        let digest = redis::Script::new(&lua).get_hash().to_owned();
        Self { name, source: lua, digest, keys, args }
    }

    fn check_key_names(&self, names: impl Iterator<Item = &'static str>) {
        let mut next = ParameterCursor::default();
        for name in names {
            let checked = self.keys.advance(&mut next, name);
            debug_assert_eq!(checked, Ok(()), "keys of {}", self.name);
        }
        debug_assert!(self.keys.is_complete(next), "keys of {} are missing", self.name);
    }
}

/// Definitions before those of the prelude, with the values that Rust code defines: the bounds of
/// the tallies' latency buckets in milliseconds, and how long a tally is kept in seconds.
fn render_constants() -> String {
    let bounds: Vec<String> =
        DURATION_BUCKET_BOUNDS.iter().map(|bound| (bound * 1000.0).to_string()).collect();
    format!(
        "local DURATION_BOUNDS_MS = {{ {} }}\n\nlocal TALLY_TTL_S = {}\n\n",
        bounds.join(", "),
        EVIDENCE_RETENTION.as_secs()
    )
}

// === impl ScriptCall ===

impl ScriptCall {
    /// Adds the argument `name`: one value.
    pub(crate) fn arg(mut self, name: &'static str, value: impl ToRedisArgs) -> Self {
        if cfg!(debug_assertions) {
            let (script, values) = (&self.script.0, value.num_of_args());
            let checked = script.args.advance(&mut self.next_arg, name);
            debug_assert_eq!(checked, Ok(()), "arguments of {}", script.name);
            debug_assert_eq!(values, 1, "values of the argument {name} of {}", script.name);
        }
        self.command.arg(value);
        self
    }

    /// Adds the argument `name` of each item of a group that has no other.
    pub(crate) fn arg_each<A: ToRedisArgs>(
        self,
        name: &'static str,
        values: impl IntoIterator<Item = A>,
    ) -> Self {
        values.into_iter().fold(self, |call, value| call.arg(name, value))
    }

    /// Runs the script.
    pub(crate) async fn run<T: FromRedisValue>(self, link: &MasterLink) -> Result<T, StoreError> {
        debug_assert!(
            self.script.0.args.is_complete(self.next_arg),
            "arguments of {} are missing",
            self.script.0.name
        );
        match link.send_command_raw(&self.command).await? {
            Err(error) if error.kind() == ErrorKind::Server(ServerErrorKind::NoScript) => {
                link.send_command(&self.to_eval_command()).await
            }
            answer => answer.map_err(|error| error::from_call_error(&error)),
        }
    }

    /// The same call with the script's source.
    fn to_eval_command(&self) -> Cmd {
        let mut command = redis::cmd("EVAL");
        command.arg(self.script.0.source.as_str());
        for arg in self.command.args_iter().skip(2) {
            if let Arg::Simple(bytes) = arg {
                command.arg(bytes);
            }
        }
        command
    }
}

/// One reply of a script that replies once per item: a number, or the text of an error.
pub(crate) fn parse_int_reply(reply: Value) -> Result<i64, StoreError> {
    match reply {
        Value::Int(number) => Ok(number),
        other => Err(match from_redis_value::<String>(other) {
            Ok(text) => error::from_error_text(&text),
            Err(_) => error::unreadable_batch_reply(),
        }),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn a_script_is_sent_with_what_it_uses_and_nothing_else() {
        let source = |script: &LuaScript| script.0.source.clone();
        assert!(
            !source(&ENQUEUE_TASKS).contains("cjson") && source(&LEASE_TASKS).contains("cjson")
        );
        let (finish, enqueue) = (source(&FINISH_TASKS), source(&ENQUEUE_TASKS));
        assert!(finish.starts_with("local DURATION_BOUNDS_MS = { 5, 10, 25, "), "{finish}");
        assert!(
            enqueue.contains("local TALLY_TTL_S = 3456000\n")
                && !enqueue.contains("DURATION_BOUNDS_MS")
        );
    }

    #[test]
    fn every_script_reads_its_keys_and_arguments_by_the_names_of_its_header() {
        for (script, text) in ALL_SCRIPTS {
            let (script, mut names) = (&script.0, HashSet::new());
            let body = text.lines().filter(|line| !line.starts_with("--"));
            for line in body {
                let mut words = line.split(|c: char| !c.is_ascii_alphanumeric());
                let is_positional = words.any(|word| ["KEYS", "ARGV"].contains(&word));
                assert!(!is_positional, "{}: {line}", script.name);
            }
            for line in text.lines().filter(|line| line.starts_with("--@")) {
                let (_, declared) = line.split_once(' ').expect("a list of names");
                let declared = declared.split_once(": ").map_or(declared, |(_, names)| names);
                for name in declared.split(' ') {
                    assert!(
                        names.insert((line.starts_with("--@keys"), name)),
                        "{}: two are called {name}",
                        script.name
                    );
                }
            }
        }
    }
}
