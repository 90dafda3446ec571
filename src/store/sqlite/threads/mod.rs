//! The two threads of the store: one writes, the other reads.

mod reader;
mod writer;

pub(crate) use self::reader::ReaderThread;
pub(crate) use self::writer::WriterThread;
