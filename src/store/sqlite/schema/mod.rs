//! The database file: its tables, how it is opened, and what its errors mean.

mod create;
mod errors;
mod tables;

pub(crate) use self::create::{create_database_file, open_private_file, open_reader, open_writer};
pub(crate) use self::errors::{is_disk_error, map_query_error, map_setup_error};
