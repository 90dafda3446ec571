//! The Lua scripts, each in a file of its own that says its keys, arguments and reply.
//!
//! A script is one round trip: called by digest, and sent whole the first time that a server does not know it.
//!
//! What scripts share stands in `prelude.lua`. Each gets only what it uses of that: a function is made anew at every
//! call, and all of them together cost the server about as much as a small script itself.

use std::sync::LazyLock;

use redis::{Arg, Cmd, ErrorKind, FromRedisValue, ServerErrorKind, ToRedisArgs, Value, from_redis_value};

use super::batch::no_answer;
use super::error;
use super::link::Link;
use crate::store::{EVIDENCE_KEPT, StoreError};
use crate::task::DURATION_BUCKETS;

const PRELUDE: &str = include_str!("scripts/prelude.lua");

/// A script, with what it uses of the prelude put before it.
pub(super) struct Script(LazyLock<Composed>);

struct Composed {
    source: String,
    digest: String,
}

macro_rules! scripts {
    ($($(#[$doc:meta])* $name:ident = $file:literal;)+) => {
        $(
            $(#[$doc])*
            pub(super) static $name: Script =
                Script(LazyLock::new(|| Composed::of(include_str!(concat!("scripts/", $file)))));
        )+
    };
}

scripts! {
    ENQUEUE = "enqueue.lua";
    LEASE = "lease.lua";
    RECOVER = "recover.lua";
    FINISH = "finish.lua";
    REJECT = "reject.lua";
    PARK = "park.lua";
    RENEW = "renew.lua";
    OVERDUE = "overdue.lua";
    FORGET = "forget.lua";
    CANCEL = "cancel.lua";
    GET = "get.lua";
    PEEK = "peek.lua";
    DEPTHS = "depths.lua";
    BEAT = "beat.lua";
    SAVE_ROLLOUT = "save_rollout.lua";
    HOLDERS = "holders.lua";
    TRIM = "trim.lua";
    FIND_DEAD = "find_dead.lua";
    REDRIVE = "redrive.lua";
    SCHEDULE = "schedule.lua";
    PROMOTE = "promote.lua";
    TAKE = "take.lua";
    DELIVERED = "delivered.lua";
    CLAIM = "claim.lua";
    CONCLUDE = "conclude.lua";
    ABANDON = "abandon.lua";
    PROGRESS = "progress.lua";
    GLANCE = "glance.lua";
    PAGE = "page.lua";
    TAILS = "tails.lua";
    ATTEND = "attend.lua";
    UNENDED = "unended.lua";
    REGISTER = "register.lua";
    NOTE = "note.lua";
    MISSING = "missing.lua";
    MEET = "meet.lua";
    RESIGN = "resign.lua";
    EVIDENCE = "evidence.lua";
    NOTE_CALLERS = "note_callers.lua";
    CALLERS = "callers.lua";
}

/// A call of a script: keys first, then arguments.
pub(super) struct Call {
    script: &'static Script,
    command: Cmd,
}

// === impl Script ===

impl Script {
    /// Starts a call with its keys.
    pub(super) fn keys<K: ToRedisArgs>(&'static self, keys: &[K]) -> Call {
        let mut command = redis::cmd("EVALSHA");
        command.arg(self.0.digest.as_str()).arg(keys.len()).arg(keys);
        Call { script: self, command }
    }
}

// === impl Composed ===

impl Composed {
    fn of(script: &str) -> Self {
        let source = compose(&(constants() + PRELUDE), script);
        let digest = redis::Script::new(&source).get_hash().to_owned();
        Self { source, digest }
    }
}

/// Definitions before the prelude's, of what is said elsewhere.
fn constants() -> String {
    let bounds: Vec<String> = DURATION_BUCKETS.iter().map(|bound| (bound * 1000.0).to_string()).collect();
    format!("local BOUNDS = {{ {} }}\n\nlocal KEPT = {}\n\n", bounds.join(", "), EVIDENCE_KEPT.as_secs())
}

/// `script` after those definitions of `prelude` that it needs. A definition begins a paragraph and uses earlier ones.
fn compose(prelude: &str, script: &str) -> String {
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
        let declared = definition.strip_prefix("local function ").or_else(|| definition.strip_prefix("local "));
        if declared.is_some_and(|rest| uses(&composed, words(rest).next().unwrap_or_default())) {
            composed.insert_str(0, definition);
        }
    }
    composed
}

fn uses(code: &str, name: &str) -> bool {
    words(code).any(|word| word == name)
}

fn words(code: &str) -> impl Iterator<Item = &str> {
    code.split(|c: char| !c.is_ascii_alphanumeric() && c != '_').filter(|word| !word.is_empty())
}

// === impl Call ===

impl Call {
    /// Adds an argument, or several.
    pub(super) fn arg(mut self, arg: impl ToRedisArgs) -> Self {
        self.command.arg(arg);
        self
    }

    /// Runs the script.
    pub(super) async fn run<T: FromRedisValue>(self, link: &Link) -> Result<T, StoreError> {
        match link.raw_call(&self.command).await? {
            Err(error) if error.kind() == ErrorKind::Server(ServerErrorKind::NoScript) => {
                link.call(&self.whole()).await
            }
            answer => answer.map_err(|error| error::of_call(&error)),
        }
    }

    /// The same call with the script's source.
    fn whole(&self) -> Cmd {
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
pub(super) fn number(reply: Value) -> Result<i64, StoreError> {
    match reply {
        Value::Int(number) => Ok(number),
        other => Err(match from_redis_value::<String>(other) {
            Ok(text) => error::of_text(&text),
            Err(_) => no_answer(),
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_script_comes_with_what_it_uses_and_nothing_else() {
        let prelude = "-- heads\n\nlocal A = 1\n\nlocal function f()\n  return A\n\nend\n\nlocal function g()\nend\n";
        assert_eq!(
            compose(prelude, "-- g\nreturn f()\n"),
            "local A = 1\n\nlocal function f()\n  return A\n\nend\n\nreturn f()\n"
        );
        assert_eq!(compose(prelude, "return x.ff\n"), "return x.ff\n");
        assert!(!ENQUEUE.0.source.contains("cjson") && LEASE.0.source.contains("cjson"));
        assert!(FINISH.0.source.starts_with("local BOUNDS = { 5, 10, 25, "), "{}", FINISH.0.source);
        assert!(ENQUEUE.0.source.contains("local KEPT = 3456000\n") && !ENQUEUE.0.source.contains("BOUNDS"));
    }
}
