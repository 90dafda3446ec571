//! The Lua scripts, each in a file of its own that says its keys, arguments and reply.
//!
//! A script is one round trip: called by digest, and sent whole the first time that a server does
//! not know it.
//!
//! What scripts share stands in `prelude.lua`. Each gets only what it uses of that: a function is
//! made anew at every call, and all of them together cost the server about as much as a small
//! script itself.

use std::sync::LazyLock;

use redis::{
    Arg, Cmd, ErrorKind, FromRedisValue, ServerErrorKind, ToRedisArgs, Value, from_redis_value,
};

use crate::store::redis::conn::error;
use crate::store::redis::conn::link::MasterLink;
use crate::store::{EVIDENCE_RETENTION, StoreError};
use crate::task::DURATION_BUCKET_BOUNDS;

const SCRIPT_PRELUDE: &str = include_str!("../scripts/prelude.lua");

/// A script, with what it uses of the prelude put before it.
pub(crate) struct LuaScript(LazyLock<ComposedScript>);

struct ComposedScript {
    source: String,
    digest: String,
}

macro_rules! scripts {
    ($($(#[$doc:meta])* $name:ident = $file:literal;)+) => {
        $(
            $(#[$doc])*
            pub(crate) static $name: LuaScript =
                LuaScript(LazyLock::new(|| {
                    ComposedScript::from_source(include_str!(concat!("../scripts/", $file)))
                }));
        )+
    };
}

scripts! {
    ENQUEUE_TASKS = "enqueue.lua";
    LEASE_TASKS = "lease.lua";
    RECOVER_LEASES = "recover.lua";
    FINISH_TASKS = "finish.lua";
    REJECT_ENTRY = "reject.lua";
    REQUEUE_TASK = "park.lua";
    RENEW_LEASES = "renew.lua";
    SCAN_EXPIRED_LEASES = "overdue.lua";
    REMOVE_IDLE_CONSUMERS = "forget.lua";
    CANCEL_TASK = "cancel.lua";
    READ_TASK = "get.lua";
    CHECK_ENDED = "peek.lua";
    READ_QUEUE_DEPTHS = "depths.lua";
    WRITE_HEARTBEAT = "beat.lua";
    SAVE_ROLLOUT = "save_rollout.lua";
    LIST_ENTRY_HOLDERS = "holders.lua";
    TRIM_STREAM = "trim.lua";
    FIND_DEAD_LETTER = "find_dead.lua";
    REDRIVE_DEAD_LETTER = "redrive.lua";
    SCHEDULE_TASK = "schedule.lua";
    PROMOTE_DUE_TASKS = "promote.lua";
    CLAIM_DUE_DELIVERIES = "take.lua";
    SETTLE_DELIVERY = "delivered.lua";
    CLAIM_IDEMPOTENCY_KEY = "claim.lua";
    CONCLUDE_CLAIM = "conclude.lua";
    ABANDON_CLAIM = "abandon.lua";
    RECORD_PROGRESS = "progress.lua";
    READ_STATUSES = "glance.lua";
    LIST_UNFINISHED_TASKS = "page.lua";
    READ_RESULT_TAILS = "tails.lua";
    SCAN_EXTERNAL_TASKS = "attend.lua";
    RECONCILE_EXTERNAL = "unended.lua";
    REGISTER_AGENT = "register.lua";
    APPEND_AGENT_EVENTS = "note.lua";
    FIND_TRIMMED_TASKS = "missing.lua";
    SYNC_REPLICA = "meet.lua";
    RESIGN_REPLICA = "resign.lua";
    READ_EVIDENCE = "evidence.lua";
    RECORD_CALLERS = "note_callers.lua";
    READ_CALLERS = "callers.lua";
}

/// A call of a script: keys first, then arguments.
pub(crate) struct ScriptCall {
    script: &'static LuaScript,
    command: Cmd,
}

// === impl Script ===

impl LuaScript {
    /// Starts a call with its keys.
    pub(crate) fn call_with_keys<K: ToRedisArgs>(&'static self, keys: &[K]) -> ScriptCall {
        let mut command = redis::cmd("EVALSHA");
        command.arg(self.0.digest.as_str()).arg(keys.len()).arg(keys);
        ScriptCall { script: self, command }
    }
}

// === impl Composed ===

impl ComposedScript {
    fn from_source(script: &str) -> Self {
        let source = compose_source(&(render_constants() + SCRIPT_PRELUDE), script);
        let digest = redis::Script::new(&source).get_hash().to_owned();
        Self { source, digest }
    }
}

/// Definitions before the prelude's, of what is said elsewhere.
fn render_constants() -> String {
    let bounds: Vec<String> =
        DURATION_BUCKET_BOUNDS.iter().map(|bound| (bound * 1000.0).to_string()).collect();
    format!(
        "local BOUNDS = {{ {} }}\n\nlocal KEPT = {}\n\n",
        bounds.join(", "),
        EVIDENCE_RETENTION.as_secs()
    )
}

/// `script` after those definitions of `prelude` that it needs. A definition begins a paragraph and
/// uses earlier ones.
fn compose_source(prelude: &str, script: &str) -> String {
    let code = |text: &str| {
        let lines = text.lines().filter(|line| !line.trim_start().starts_with("--"));
        lines.fold(String::new(), |code, line| code + line + "\n")
    };
    let mut definitions: Vec<String> = vec![String::new()];
    for line in code(prelude).lines() {
        if line.starts_with("local ") {
            definitions.push(String::new());
        }
        if let Some(definition) = definitions.last_mut() {
            definition.push_str(line);
            definition.push('\n');
        }
    }
    let mut composed = code(script);
    for definition in definitions.iter().rev() {
        let declared = definition
            .strip_prefix("local function ")
            .or_else(|| definition.strip_prefix("local "));
        if declared.is_some_and(|rest| {
            uses_identifier(&composed, split_identifiers(rest).next().unwrap_or_default())
        }) {
            composed.insert_str(0, definition);
        }
    }
    composed
}

fn uses_identifier(code: &str, name: &str) -> bool {
    split_identifiers(code).any(|word| word == name)
}

fn split_identifiers(code: &str) -> impl Iterator<Item = &str> {
    code.split(|c: char| !c.is_ascii_alphanumeric() && c != '_').filter(|word| !word.is_empty())
}

// === impl Call ===

impl ScriptCall {
    /// Adds an argument, or several.
    pub(crate) fn arg(mut self, arg: impl ToRedisArgs) -> Self {
        self.command.arg(arg);
        self
    }

    /// Runs the script.
    pub(crate) async fn run<T: FromRedisValue>(self, link: &MasterLink) -> Result<T, StoreError> {
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

/// One answer of a script that gives many: a number, or what is wrong, as text.
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
    use super::*;

    #[test]
    fn a_script_comes_with_what_it_uses_and_nothing_else() {
        let prelude = "-- heads\n\nlocal A = 1\n\nlocal function f()\n  return A\n\nend\n\nlocal \
            function g()\nend\n";
        assert_eq!(
            compose_source(prelude, "-- g\nreturn f()\n"),
            "local A = 1\n\nlocal function f()\n  return A\n\nend\n\nreturn f()\n"
        );
        assert_eq!(compose_source(prelude, "return x.ff\n"), "return x.ff\n");
        assert!(
            !ENQUEUE_TASKS.0.source.contains("cjson") && LEASE_TASKS.0.source.contains("cjson")
        );
        assert!(
            FINISH_TASKS.0.source.starts_with("local BOUNDS = { 5, 10, 25, "),
            "{}",
            FINISH_TASKS.0.source
        );
        assert!(
            ENQUEUE_TASKS.0.source.contains("local KEPT = 3456000\n")
                && !ENQUEUE_TASKS.0.source.contains("BOUNDS")
        );
    }
}
