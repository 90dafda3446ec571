//! Shadow traffic: some requests of the sync path are copied as tasks, and the two answers
//! compared.
//!
//! The client gets the upstream's response as always. A picked request is read whole before the
//! upstream is asked; its copy causes no other delay and no failure. The copy is queued once the
//! response has been sent, no client waits for it, and it is given up at the first backpressure. A
//! copy is marked by `x-omnidaemon-shadow`, is tried once, sends no webhook or reply, and belongs
//! to no route and epoch, so that only the gate for shadow copies counts it. What is compared is
//! the response that a client of the canary would have got. Every picked request is counted once by
//! its outcome.

mod compare;
mod copy;
mod outcome;
mod pick;
mod serve;

pub(crate) use self::pick::{count_ineligible, pick_for_shadow};
pub(crate) use self::serve::serve_shadowed;
