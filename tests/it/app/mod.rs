//! The process as a whole: start-up checks, reload, readiness and shutdown, and workers in
//! processes of their own.

mod drain;
mod ops;
mod reload;
mod smoke;
mod start;
mod unnoticed;
mod worker_processes;
