//! What the proxy answers: the body of every response on its way to a client, and the responses
//! that the proxy makes itself.
//!
//! Every status that the proxy chooses is chosen here: `problem` for what went wrong, `response`
//! for the rest. A response of the upstream keeps its own.

pub(crate) mod problem;
pub(crate) mod response;
pub(crate) mod response_body;
mod task_failure;
