//! The endpoints of this proxy: `POST <route>/async`, and `/task/<id>` with `/events`,
//! `/progress` and `/response` below it.
//!
//! A task is visible to the API key that submitted it, and to no other: an unknown task, an expired
//! one and that of another key give the same answer.

mod cancel;
mod cors;
mod events;
mod lookup;
mod poll;
mod progress;
mod read_body;
mod response;
mod route;
mod submit;

pub(crate) use self::route::handle_task_request;
pub(crate) use self::submit::submit_task;
