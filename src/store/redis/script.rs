//! The Lua scripts, each in a file of its own that says its keys, arguments and reply.
//!
//! A script is one round trip: called by digest, and sent whole the first time that a server does not know it.

use std::sync::LazyLock;

use redis::{Arg, Cmd, ErrorKind, FromRedisValue, ServerErrorKind, ToRedisArgs};

use super::error;
use super::link::Link;
use crate::store::StoreError;

/// A script, with what all share put before it.
pub(super) struct Script {
    source: &'static str,
    digest: LazyLock<String>,
}

macro_rules! scripts {
    ($($(#[$doc:meta])* $name:ident = $file:literal;)+) => {
        $(
            $(#[$doc])*
            pub(super) static $name: Script = Script {
                source: concat!(include_str!("scripts/prelude.lua"), include_str!(concat!("scripts/", $file))),
                digest: LazyLock::new(|| redis::Script::new($name.source).get_hash().to_owned()),
            };
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
    SCHEDULE = "schedule.lua";
    PROMOTE = "promote.lua";
    TAKE = "take.lua";
    DELIVERED = "delivered.lua";
    CLAIM = "claim.lua";
    CONCLUDE = "conclude.lua";
    ABANDON = "abandon.lua";
    PROGRESS = "progress.lua";
    GLANCE = "glance.lua";
    ATTEND = "attend.lua";
    UNENDED = "unended.lua";
    REGISTER = "register.lua";
    NOTE = "note.lua";
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
        command.arg(self.digest.as_str()).arg(keys.len()).arg(keys);
        Call { script: self, command }
    }
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
        command.arg(self.script.source);
        for arg in self.command.args_iter().skip(2) {
            if let Arg::Simple(bytes) = arg {
                command.arg(bytes);
            }
        }
        command
    }
}
